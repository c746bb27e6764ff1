"""Edits of dead letters: the original stays, the replacement lies beside it, and the audit keeps each difference."""

from __future__ import annotations

import difflib
import json

from headrace.engine.dead_letters import DeadLetter, DeadLetterStore, Stored
from headrace.engine.replays import audited
from headrace.errors import InvalidEvent
from headrace.event import Event

__all__ = ["difference", "document", "edit_letter", "proposed"]

#: Characters of a difference that the audit keeps.
DIFFERENCE_LIMIT = 16 * 1024


def document(letter: DeadLetter) -> str:
    """The letter's event as a JSON document to be edited; where what arrived is no event, one to be completed."""
    event = letter.event
    if event is not None:
        return _pretty(event)
    text = (letter.body or b"").decode("utf-8", "backslashreplace")
    wanted = {
        "specversion": "1.0",
        "id": letter.id,
        "source": letter.source,
        "type": letter.event_type or letter.source,
    }
    return json.dumps({**wanted, "data": text}, indent=2, ensure_ascii=False) + "\n"


def difference(letter: DeadLetter) -> str:
    """What all edits together changed, as a unified diff; empty without any."""
    if letter.edited is None:
        return ""
    original = DeadLetter(**{name: getattr(letter, name) for name in letter.__struct_fields__ if name != "edited"})
    return _difference(original, _pretty_edited(letter))


def proposed(letter: DeadLetter, event: Event) -> str:
    """What an edit to this event would change, as a unified diff; empty where nothing."""
    return _difference(letter, _pretty(event))


async def edit_letter(store: DeadLetterStore, stored: Stored, event: Event, *, by: str, reason: str = "") -> str:
    """Put an event in the place of the letter's. Returns why it was not done, or an empty text.

    Its id and source stay, since the ledger and derived ids know the event by them; where what arrived was no event they
    are free.
    """
    letter = stored.letter
    if letter.state != "dead":
        return f"it is {letter.state}: only a dead letter can be edited"
    before = letter.event
    if before is not None and (before.id, before.source) != (event.id, event.source):
        return "an edit cannot change id or source, by which the event is known to the ledger"
    changed = proposed(letter, event)
    if not changed:
        return "nothing has changed"
    replacement = ([("content-type", b"application/cloudevents+json")], event.to_json())
    edited = audited(letter, "edited", by=by, reason=reason, detail=changed[:DIFFERENCE_LIMIT], edited=replacement)
    if await store.update(edited, stored.revision):
        return ""
    return "somebody else has changed it meanwhile; look at it again"


def _pretty(event: Event) -> str:
    return json.dumps(json.loads(event.to_json()), indent=2, ensure_ascii=False) + "\n"


def _pretty_edited(letter: DeadLetter) -> str:
    event = letter.event
    assert event is not None, "an edit is an event"
    return _pretty(event)


def _difference(letter: DeadLetter, after: str) -> str:
    try:
        event = letter.event
        before = _pretty(event) if event is not None else _bytes(letter)
    except (InvalidEvent, ValueError):
        before = _bytes(letter)
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="")
    return "\n".join(lines)


def _bytes(letter: DeadLetter) -> str:
    return (letter.body or b"").decode("utf-8", "backslashreplace")
