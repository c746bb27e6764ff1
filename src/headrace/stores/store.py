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
    if scheme == "sqlite":
        from headrace.stores import sqlite_store as sqlite
        from headrace.stores.sqlite_file import SQLiteFile

        path = urlsplit(url).path[1:]
        if not path or urlsplit(url).netloc:
            raise ConfigurationError(f"store {url!r}: write sqlite:///relative.db or sqlite:////absolute.db")
        file = SQLiteFile(path, beside=beside)
        return Store(
            url=url,
            durable=True,
            ledger=sqlite.SQLiteLedger(file, app),
            dead_letters=sqlite.SQLiteDeadLetters(file),
            checkpoints=sqlite.SQLiteCheckpoints(file),
            suspects=sqlite.SQLiteSuspects(file, app),
            connection=file,
        )
    raise ConfigurationError(
        f"store {scheme}://…: unknown URL scheme; use memory://, sqlite:///, postgresql:// or redis://"
    )
