"""One store by its URL, with every part that it can keep. Backends are imported when their scheme is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from headrace.engine.checkpoints import Checkpoints, Suspects
from headrace.engine.dead_letters import DeadLetterStore
from headrace.engine.ledger import Ledger, Owner
from headrace.errors import ConfigurationError

__all__ = ["Store", "open_store"]


@dataclass(slots=True, kw_only=True)
class Store:
    """A store's parts; ``None`` where it does not keep that. ``url`` has its secrets hidden."""

    url: str
    ledger: Ledger
    durable: bool = False
    dead_letters: DeadLetterStore | None = None
    checkpoints: Checkpoints | None = None
    suspects: Suspects | None = None
    outbox: Any = None
    connection: Any = field(default=None, repr=False)

    async def open(self, owner: Owner) -> None:
        """Connect, migrate, take the lease."""
        if self.connection is not None:
            await self.connection.open()
        await self.ledger.open(owner)

    async def close(self) -> None:
        """Release what this owner claimed and disconnect."""
        await self.ledger.close()
        if self.connection is not None:
            await self.connection.close()


def open_store(url: str, *, app: str, beside: bool = False) -> Store:
    """The store of a URL, not yet connected. ``beside``: a worker may own it already (SQLite).

    Raises `ConfigurationError` for an unknown scheme.
    """
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        from headrace.memory.dead_letters import MemoryDeadLetters
        from headrace.stores.memory import MemoryLedger

        return Store(url=url, ledger=MemoryLedger(), dead_letters=MemoryDeadLetters())
    raise ConfigurationError(
        f"store {scheme}://…: unknown URL scheme; use memory://, sqlite:///, postgresql:// or redis://"
    )
