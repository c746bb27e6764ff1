"""The store that many workers share: ledger, dead letters, checkpoints and outbox in one PostgreSQL database."""

from __future__ import annotations

from urllib.parse import urlsplit

from headrace.errors import ConfigurationError
from headrace.settings import hide_secrets
from headrace.stores.postgres.ledger import PostgresLedger
from headrace.stores.postgres.letters import PostgresDeadLetters
from headrace.stores.postgres.outbox import PostgresOutbox
from headrace.stores.postgres.pool import Pool
from headrace.stores.postgres.records import PostgresCheckpoints, PostgresSuspects
from headrace.stores.postgres.transactions import PostgresTransactions
from headrace.stores.store import Store

__all__ = ["create"]


def create(url: str, *, app: str, beside: bool) -> Store:
    """The store of ``postgresql://user:password@host:port/database?option=value``, not yet open. Options are libpq's
    (``sslmode``, ``options=-csearch_path%3Dshop`` …). Servers from PostgreSQL 14 on."""
    shown = hide_secrets(url)
    if not urlsplit(url).path.strip("/"):
        raise ConfigurationError(f"store {shown!r} names no database: write postgresql://user@host:port/database")
    pool = Pool(shown, url)
    ledger = PostgresLedger(pool, app, beside=beside)
    return Store(
        url=shown,
        durable=True,
        ledger=ledger,
        dead_letters=PostgresDeadLetters(pool),
        checkpoints=PostgresCheckpoints(pool),
        suspects=PostgresSuspects(pool, ledger, app),
        transactions=PostgresTransactions(pool, ledger),
        outbox=PostgresOutbox(pool, ledger, app),
        connection=pool,
    )
