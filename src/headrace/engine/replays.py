"""What is done to a dead letter: replayed or dropped, each step compare-and-set and audited.

dead → replaying → replayed: a crash between the two leaves ``replaying``, and the replay may be asked for again, since its
event has the same id and replay number each time (the broker and the ledger know it).
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from headrace.engine.broker import Broker
from headrace.engine.dead_letters import Action, DeadLetter, DeadLetterStore, Stored
from headrace.errors import HeadraceError

__all__ = ["drop_letter", "replay_letter"]


def _after(letter: DeadLetter, state: str, *, by: str, reason: str) -> DeadLetter:
    changes: dict[str, Any] = {"state": state, "audit": [*letter.audit, Action(time.time(), state, by, reason)]}
    return msgspec.structs.replace(letter, **changes)


async def replay_letter(
    store: DeadLetterStore, broker: Broker | None, stored: Stored, *, by: str, reason: str = ""
) -> str:
    """Replay one letter through its handler's replay channel. Returns why it was not done, or an empty text."""
    letter = stored.letter
    if broker is None:
        return "replay needs the app's broker: set HEADRACE_BROKER"
    if letter.state not in ("dead", "replaying"):
        return f"it is {letter.state} already"
    if not await store.update(_after(letter, "replaying", by=by, reason=reason), stored.revision):
        return "somebody else has changed it meanwhile; look at it again"
    try:
        await broker.replay(letter)
    except HeadraceError as error:
        current = await store.get(letter.id)
        if current is not None:
            await store.update(
                _after(current.letter, "dead", by=by, reason=f"replay failed: {error}"), current.revision
            )
        return str(error)
    current = await store.get(letter.id)
    if current is not None:
        await store.update(_after(current.letter, "replayed", by=by, reason=reason), current.revision)
    return ""


async def drop_letter(store: DeadLetterStore, stored: Stored, *, by: str, reason: str = "") -> str:
    """Give one letter up. Returns why it was not done, or an empty text."""
    if stored.letter.state not in ("dead", "replaying"):
        return f"it is {stored.letter.state} already"
    if not await store.update(_after(stored.letter, "dropped", by=by, reason=reason), stored.revision):
        return "somebody else has changed it meanwhile; look at it again"
    return ""
