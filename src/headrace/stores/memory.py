"""The store of one process: dictionaries, nothing durable, nothing awaited.

Claims live as long as the process; marks are kept up to a limit, the oldest go first. The ledger is on the path of every
event of an app that configures no store, so claim and mark are loops over plain dictionaries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from headrace.engine.ledger import CLAIMED, Attempts, Claim, Identity, Owner
from headrace.memory.dead_letters import MemoryDeadLetters
from headrace.stores.store import Store

__all__ = ["MARKS", "MemoryCheckpoints", "MemoryLedger", "create"]

#: Finished events that are remembered, for each handler.
MARKS = 100_000

_OURS = Claim("ours")
_DONE = Claim("done")


def create(url: str, *, app: str, beside: bool) -> Store:
    """A store of its own for each call."""
    return Store(url=url, ledger=MemoryLedger(), dead_letters=MemoryDeadLetters(), checkpoints=MemoryCheckpoints())


def _keys(identities: Sequence[Identity]) -> list[str]:
    """Each identity as one text; a source has no NUL.

    What is kept of an event lies between what is freed again, and spreads all that comes later over memory that no cache
    holds: one text of its own costs half of what a tuple of two texts of the event does.
    """
    return [f"{source}\0{id}" for source, id in identities]


class _Handler:
    """One handler's records. ``finished`` holds every mark, ``order`` the same in batches, oldest first; ``states`` how it
    ended where that was not ``done``."""

    __slots__ = ("attempts", "claims", "finished", "order", "states")

    def __init__(self) -> None:
        self.claims: set[str] = set()
        self.finished: set[str] = set()
        self.order: deque[set[str]] = deque()
        self.states: dict[str, Claim] = {}
        self.attempts: dict[str, Attempts] = {}


class MemoryLedger:
    """See `headrace.engine.ledger.Ledger`. ``marks``: how many finished events are remembered, per handler (one batch
    more, for they go as they came)."""

    durable = False

    def __init__(self, marks: int = MARKS) -> None:
        self._limit = marks
        self._handlers: dict[str, _Handler] = {}

    async def open(self, owner: Owner) -> None:
        """Nothing to open."""

    def _of(self, handler: str) -> _Handler:
        found = self._handlers.get(handler)
        if found is None:
            found = self._handlers[handler] = _Handler()
        return found

    async def claim(self, handler: str, identities: Sequence[Identity]) -> Sequence[Claim]:
        record = self._of(handler)
        claims, finished, attempts = record.claims, record.finished, record.attempts
        # Whole sets at a time: they remember the hashes, and no Python runs for an event.
        keys = _keys(identities)
        batch = set(keys)
        if not attempts and len(batch) == len(keys) and batch.isdisjoint(claims) and batch.isdisjoint(finished):
            claims |= batch
            return [CLAIMED] * len(identities)
        answers: list[Claim] = []
        for key in keys:
            if key in claims:
                answers.append(_OURS)
            elif key in finished:
                answers.append(record.states.get(key, _DONE))
            else:
                claims.add(key)
                failed = attempts.get(key)
                answers.append(CLAIMED if failed is None else Claim("claimed", failed))
        return answers

    async def mark(self, handler: str, identities: Sequence[Identity], state: str) -> Sequence[bool]:
        record = self._of(handler)
        claims = record.claims
        keys = _keys(identities)
        batch = set(keys)
        if claims >= batch:
            held = [True] * len(keys)
        else:
            held = [key in claims for key in keys]
            batch &= claims
        claims -= batch
        if not batch:
            return held
        record.finished |= batch
        record.order.append(batch)
        if state != "done":
            record.states.update(dict.fromkeys(batch, Claim(state)))
        elif record.states:
            for key in batch:
                record.states.pop(key, None)
        if record.attempts:
            for key in batch:
                record.attempts.pop(key, None)
        while len(record.finished) - len(record.order[0]) >= self._limit:
            oldest = record.order.popleft()
            record.finished -= oldest
            if record.states:
                for key in oldest:
                    record.states.pop(key, None)
        return held

    async def record(self, handler: str, attempts: Sequence[tuple[Identity, Attempts]]) -> None:
        self._of(handler).attempts.update(
            zip(_keys([identity for identity, _ in attempts]), [a for _, a in attempts], strict=True)
        )

    async def release(self, handler: str, identities: Sequence[Identity]) -> None:
        self._of(handler).claims.difference_update(_keys(identities))

    async def forget(self, handler: str, identities: Sequence[Identity]) -> None:
        record = self._of(handler)
        for key in _keys(identities):
            record.finished.discard(key)
            record.states.pop(key, None)
            record.attempts.pop(key, None)

    async def close(self) -> None:
        """Forget everything."""
        self._handlers.clear()


class MemoryCheckpoints:
    """See `headrace.engine.checkpoints.Checkpoints`."""

    def __init__(self) -> None:
        self._scopes: dict[str, dict[str, bytes]] = {}

    async def load(self, scope: str) -> Mapping[str, bytes]:
        return dict(self._scopes.get(scope, {}))

    async def save(self, scope: str, changes: Mapping[str, bytes | None]) -> None:
        values = self._scopes.setdefault(scope, {})
        for name, value in changes.items():
            if value is None:
                values.pop(name, None)
            else:
                values[name] = value
