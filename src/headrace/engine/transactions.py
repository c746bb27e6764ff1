"""Transactions of a store that a handler takes part in, and the outbox that commits with them.

A transactional handler's writes, the events that it publishes and the mark of its own event are one commit: either all of it
happened or nothing. The events lie in the outbox until a relay has published them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from headrace.engine.ledger import Identity
from headrace.errors import StoreUnavailable

__all__ = ["Outbox", "Outgoing", "Transaction", "Transactions", "Unit"]


class Transaction(ABC):
    """The store's transaction, as a handler's parameter. It commits when the handler returns, and only then."""

    @abstractmethod
    async def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; its rows, or an empty list.

        Placeholders are the driver's own: ``?`` on SQLite, ``%s`` on PostgreSQL. Raises the driver's error for a mistake in
        the statement, `StoreUnavailable` in an outage: let it pass, the attempt is repeated and not counted.
        """


class Outgoing(msgspec.Struct, frozen=True, array_like=True):
    """An event in the outbox. ``destination``: ``channel:<name>``, or ``handler:<name>`` for the sink in that handler's
    ``publishes``. ``key``: the ordering key that the sink is told; ``lane``: what keeps its order in the relay, empty for
    nothing; ``replay``: see `Publication`; ``event``: in the JSON format."""

    destination: str
    key: str | None
    lane: str
    replay: int
    event: bytes


class Unit(Protocol):
    """One transaction under way. ``parameter``: what the handler is given."""

    parameter: Any

    async def commit(self, handler: str, identity: Identity | None, outgoing: Sequence[bytes]) -> bool:
        """Write outbox rows and the mark (none without an identity) and commit. ``False``: the claim was no longer this
        owner's, and nothing of it happened. ``True`` also where an earlier commit whose answer was lost turns out to have
        done it: then nothing is done twice. Raises `StoreUnavailable` where nobody knows; a new attempt finds out."""
        ...

    async def rollback(self) -> None:
        """Undo everything; never raises, never waits for a store that does not answer."""


class Transactions(Protocol):
    """What a store gives to transactional handlers."""

    def check(self, annotation: Any) -> str:
        """Why a parameter of this annotation cannot be given here, or empty."""
        ...

    async def begin(self, annotation: Any) -> Unit: ...

    def outage(self, error: BaseException) -> StoreUnavailable | None:
        """An error that a handler let pass as the outage that it is, or ``None``."""
        ...


class Outbox(Protocol):
    """Rows that were committed and are not yet published. Trouble raises `StoreUnavailable`."""

    async def acquire(self) -> bool:
        """Whether this process is the app's relay, now; a dead owner's place is taken over."""
        ...

    async def pending(self, limit: int) -> Sequence[tuple[int, bytes]]:
        """The oldest rows still present, in the order in which they were written."""
        ...

    async def remove(self, numbers: Sequence[int]) -> None:
        """These are published and confirmed."""

    async def refuse(self, number: int, reason: str) -> None:
        """The sink will never take this one: it stays in the table with the reason, and the others pass it."""

    def committed(self) -> None:
        """A transaction of this process has written rows."""

    async def wait(self, seconds: float) -> None:
        """Wait until there may be rows, or so long."""

    async def close(self) -> None:
        """Give the relay's work up."""
