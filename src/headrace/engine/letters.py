"""Turns a delivery that could not be handled into its dead letter."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from headrace.engine.dead_letters import DeadLetter, letter_id
from headrace.engine.delivery import Original
from headrace.errors import HeadraceError, InvalidEvent, Reject, encodable, words

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery
    from headrace.engine.handler import Handler
    from headrace.event import Event

__all__ = ["TRACEBACK_LIMIT", "compose", "replay_number"]

#: Characters of a traceback that are kept (16 KiB), the innermost frames first to stay.
TRACEBACK_LIMIT = 16 * 1024


def replay_number(delivery: Delivery) -> int:
    """How many replays came before this delivery: its event's ``replaynumber`` extension, 0 where it is none."""
    event = delivery.event
    if event is None:
        return 0
    value = event._attributes.get("replaynumber", 0)
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def compose(handler: Handler, delivery: Delivery, error: BaseException, *, now: float) -> DeadLetter:
    """The dead letter of a delivery. ``now`` in seconds since the epoch."""
    event = delivery.event
    origin = dict(delivery.metadata)
    headers, body = _original(delivery)
    if event is not None:
        source, id, type, subject = event.source, event.id, event.type, event.subject
    else:
        # No event, so no id of its own: where it lay names it.
        source, type, subject = delivery.source.name, "", None
        id = " ".join(f"{name}={value}" for name, value in sorted(origin.items()))
    replay = replay_number(delivery)
    message = words(error)
    if isinstance(error, Reject):
        reason = f"rejected: {message}"
    elif isinstance(error, InvalidEvent):
        reason = f"unusable: {message}"
    elif isinstance(error, TimeoutError):
        reason = message or "timed out"
    else:
        reason = f"{_name(error)}: {message}"
    history = delivery._history
    letter = DeadLetter(
        id=letter_id(handler.app, handler.name, source, id, replay),
        app=handler.app,
        handler=handler.name,
        source=delivery.source.name,
        event_source=source,
        event_id=id,
        event_type=type,
        subject=subject,
        headers=[(encodable(name), value.encode() if isinstance(value, str) else value) for name, value in headers],
        body=body,
        reason=reason[:2000],
        exception=_name(error),
        message=message[:2000],
        traceback=_traceback(error),
        attempts=delivery.attempt,
        first_seen=history.first if history else now,
        last_seen=now,
        errors=list(history.errors) if history else [],
        origin=origin,
        key=None if delivery._lane is None else encodable(delivery._lane),
        replay=replay,
        replay_of=None if event is None else event._attributes.get("replayof"),
    )
    if event is not None:
        _complete(letter, event)
    return letter


def _complete(letter: DeadLetter, event: Event) -> None:
    """What headers and body do not say of the event, the envelope does: a replay is to be the event that the handler saw."""
    found = letter.event
    if found is not None and found.attributes == event.attributes:
        return
    try:
        body = event.raw
    except HeadraceError:
        return
    if (body or None) == (letter.body or None):
        letter.attributes = event.attributes


def _original(delivery: Delivery) -> Original:
    """What arrived. An event that was never bytes (in the memory of this process) and cannot be written leaves none."""
    try:
        return delivery.original()
    except HeadraceError:
        return Original((), None)


def _name(error: BaseException) -> str:
    kind = type(error)
    return encodable(kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}")


def _traceback(error: BaseException) -> str:
    if error.__traceback__ is None:
        return ""
    text = encodable("".join(traceback.format_exception(error)))
    return text if len(text) <= TRACEBACK_LIMIT else "…" + text[1 - TRACEBACK_LIMIT :]
