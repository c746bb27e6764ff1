"""The ledger of one process: dictionaries, nothing durable, nothing awaited.

Claims live as long as the process; marks are kept up to a limit, the oldest go first. It is on the path of every event of
an app that configures no store, so claim and mark are loops over plain dictionaries.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.engine.ledger import CLAIMED, Attempts, Claim, Identity, Owner

__all__ = ["MARKS", "MemoryLedger"]

#: Marks that are kept.
MARKS = 100_000

_OURS = Claim("ours")
_DONE = {state: Claim(state) for state in ("done", "dead", "dropped")}


class _Handler:
    """One handler's records. ``marks`` and ``claims`` map an identity to its answer."""

    __slots__ = ("attempts", "claims", "marks")

    def __init__(self) -> None:
        self.claims: dict[Identity, Claim] = {}
        self.marks: dict[Identity, Claim] = {}
        self.attempts: dict[Identity, Attempts] = {}


class MemoryLedger:
    """See `headrace.engine.ledger.Ledger`. ``marks``: how many finished events are remembered, per handler."""

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
        claims, marks, attempts = record.claims, record.marks, record.attempts
        answers: list[Claim] = []
        append = answers.append
        for identity in identities:
            if identity in claims:
                append(_OURS)
            elif identity in marks:
                append(marks[identity])
            else:
                claims[identity] = CLAIMED
                append(CLAIMED if not attempts or identity not in attempts else Claim("claimed", attempts[identity]))
        return answers

    async def mark(self, handler: str, identities: Sequence[Identity], state: str) -> Sequence[bool]:
        record = self._of(handler)
        claims, marks = record.claims, record.marks
        answer = _DONE[state]
        results: list[bool] = []
        for identity in identities:
            if claims.pop(identity, None) is None:
                results.append(False)
            else:
                marks[identity] = answer
                results.append(True)
        if record.attempts:
            for identity in identities:
                record.attempts.pop(identity, None)
        excess = len(marks) - self._limit
        if excess > 0:
            for identity in list(marks)[:excess] if excess > 1000 else [next(iter(marks)) for _ in range(1)]:
                del marks[identity]
        return results

    async def record(self, handler: str, attempts: Sequence[tuple[Identity, Attempts]]) -> None:
        self._of(handler).attempts.update(attempts)

    async def release(self, handler: str, identities: Sequence[Identity]) -> None:
        claims = self._of(handler).claims
        for identity in identities:
            claims.pop(identity, None)

    async def forget(self, handler: str, identities: Sequence[Identity]) -> None:
        record = self._of(handler)
        for identity in identities:
            record.marks.pop(identity, None)
            record.attempts.pop(identity, None)

    async def close(self) -> None:
        """Forget everything."""
        self._handlers.clear()
