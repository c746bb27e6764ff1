"""One store by its URL, with every part that it can keep. Backends are imported when their scheme is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol
from urllib.parse import urlsplit

from headrace.engine.checkpoints import Checkpoints, Suspects
from headrace.engine.dead_letters import DeadLetterStore
from headrace.engine.ledger import Ledger, Owner
from headrace.engine.transactions import Outbox, Transactions
from headrace.errors import ConfigurationError
from headrace.settings import hide_secrets

__all__ = ["SCHEMES", "Store", "open_store"]

#: URL scheme → module with ``create(url, *, app, beside)``, and the extra that brings its driver.
SCHEMES = {
    "memory": ("headrace.stores.memory", ""),
    "sqlite": ("headrace.stores.sqlite", ""),
    "postgresql": ("headrace.stores.postgres", "postgres"),
    "postgres": ("headrace.stores.postgres", "postgres"),
    "redis": ("headrace.stores.redis", "redis"),
    "rediss": ("headrace.stores.redis", "redis"),
}


class Connection(Protocol):
    """What the parts of a store share."""

    async def open(self, owner: Owner) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class Store:
    """A store's parts; ``None`` where it does not keep that.

    ``url`` has its secrets hidden. ``durable``: what it holds survives the process. The parts share one connection (pool,
    thread), opened and closed with the store.
    """

    url: str
    ledger: Ledger
    durable: bool = False
    dead_letters: DeadLetterStore | None = None
    checkpoints: Checkpoints | None = None
    suspects: Suspects | None = None
    transactions: Transactions | None = None
    outbox: Outbox | None = None
    connection: Connection | None = field(default=None, repr=False)

    async def open(self, owner: Owner) -> None:
        """Connect, migrate or check the schema, take the lease.

        Raises `ConfigurationError` or `RefusedError` for what no waiting mends, `StoreUnavailable` in an outage.
        """
        if self.connection is not None:
            await self.connection.open(owner)
        try:
            await self.ledger.open(owner)
        except BaseException:
            if self.connection is not None:
                await self.connection.close()
            raise

    async def close(self) -> None:
        """Release what this owner claimed, end its lease and disconnect."""
        try:
            if self.outbox is not None:
                await self.outbox.close()
            await self.ledger.close()
        finally:
            if self.connection is not None:
                await self.connection.close()


def open_store(url: str, *, app: str, beside: bool = False) -> Store:
    """The store of a URL, not yet connected.

    ``beside``: for whoever looks after dead letters while a worker owns the store; takes no ownership and claims nothing.
    Raises `ConfigurationError` for an unknown scheme, a URL that names no store, or a missing driver.
    """
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES or "://" not in url:
        raise ConfigurationError(
            f"store {hide_secrets(url)!r}: unknown URL scheme {scheme!r}; use sqlite:///file.db, postgresql://, redis:// or memory://"
        )
    module, extra = SCHEMES[scheme]
    try:
        create = import_module(module).create
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("headrace"):
            raise
        raise ConfigurationError(
            f"store {hide_secrets(url)!r} needs the module {error.name!r}; install headrace[{extra}]"
        ) from error
    store: Store = create(url, app=app, beside=beside)
    return store
