"""The engine's contract with a ledger: who has claimed or finished which event for which handler.

The rules that every ledger keeps (checked by `headrace.testing.conformance`):

- A claim is exclusive. Claims belong to a process (`Owner`), whose lease is one row that the ledger renews by itself
  while it is open; the claims of an owner whose lease has expired, or who is known to be dead, are free to take.
- A mark (done, dead, dropped) succeeds only while the claim still has this owner's fencing token.
- Each call is one batch and one round trip. A batch is atomic: all of it, or an exception and nothing of it.
- Trouble (disk full, server away) raises `StoreUnavailable`; the engine waits and repeats, never runs unprotected.
- Live claims are never evicted. Marks are kept for the retention (7 days; in memory 100,000 marks).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, runtime_checkable

import msgspec

__all__ = ["CLAIMED", "AttemptError", "Attempts", "Claim", "Identity", "Ledger", "Owner"]

#: (event source, event id); an id made by the user's ``idempotent=`` function is ("", that id).
Identity = tuple[str, str]


class AttemptError(msgspec.Struct, frozen=True, array_like=True):
    """One failed attempt: when it started (seconds since the epoch), the exception's type and its message, cut to 500 characters."""

    at: float
    exception: str
    message: str


class Attempts(msgspec.Struct, frozen=True, array_like=True):
    """Attempts that failed so far: how many, when the first started (seconds since the epoch), and the last 20 errors."""

    count: int
    first: float
    errors: tuple[AttemptError, ...] = ()


class Claim(NamedTuple):
    """The answer to one claim.

    ``state``: ``claimed`` (by this call, for this owner), ``ours`` (this owner holds it already: another delivery of the same
    event is in progress here), ``busy`` (another live owner holds it), or how it was finished: ``done``, ``dead``,
    ``dropped``. ``attempts`` is what was recorded before, or ``None``.
    """

    state: str
    attempts: Attempts | None = None


#: The answer for a fresh event; one object for all of them.
CLAIMED: Final = Claim("claimed")


class Owner(NamedTuple):
    """A process as the ledger knows it: the app's name, a random id of this start, its pid and host."""

    app: str
    id: str
    pid: int
    host: str


@runtime_checkable
class Ledger(Protocol):
    """``durable``: what it holds survives the process. ``lease`` and ``renew`` in seconds (15 and 5)."""

    durable: bool

    async def open(self, owner: Owner) -> None:
        """Migrate or check the schema, take the lease, start renewing it."""

    async def claim(self, handler: str, identities: Sequence[Identity]) -> Sequence[Claim]:
        """Claim each for this owner. The same identity twice in a batch: the second is ``ours``."""
        ...

    async def mark(self, handler: str, identities: Sequence[Identity], state: str) -> Sequence[bool]:
        """Finish each as ``done``, ``dead`` or ``dropped``. ``False`` where the fencing token no longer matched."""
        ...

    async def record(self, handler: str, attempts: Sequence[tuple[Identity, Attempts]]) -> None:
        """Store failed attempts of claimed events; the claim stays."""

    async def release(self, handler: str, identities: Sequence[Identity]) -> None:
        """Give claims back, unfinished; recorded attempts stay."""

    async def forget(self, handler: str, identities: Sequence[Identity]) -> None:
        """Remove marks and attempts, so that these events are handled as if never seen."""

    async def close(self) -> None:
        """Release every claim of this owner and end its lease."""
