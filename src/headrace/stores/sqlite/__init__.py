"""The store of one worker: everything in one SQLite file, shared by one thread."""

from __future__ import annotations

from headrace.errors import ConfigurationError
from headrace.stores.sqlite.file import SQLiteFile
from headrace.stores.sqlite.ledger import SQLiteLedger
from headrace.stores.sqlite.letters import SQLiteDeadLetters
from headrace.stores.sqlite.records import SQLiteCheckpoints, SQLiteSuspects
from headrace.stores.sqlite.transactions import SQLiteOutbox, SQLiteTransactions
from headrace.stores.store import Store

__all__ = ["create"]


def create(url: str, *, app: str, beside: bool) -> Store:
    """The store of ``sqlite:///relative.db`` or ``sqlite:////absolute.db``, not yet open."""
    path = url.removeprefix("sqlite://")
    if not path.startswith("/") or path == "/":
        raise ConfigurationError(f"store {url!r}: write sqlite:///relative.db or sqlite:////absolute.db")
    file = SQLiteFile(path[1:], beside=beside)
    ledger = SQLiteLedger(file, app)
    return Store(
        url=url,
        durable=True,
        ledger=ledger,
        dead_letters=SQLiteDeadLetters(file),
        checkpoints=SQLiteCheckpoints(file),
        suspects=SQLiteSuspects(file, app),
        transactions=SQLiteTransactions(file, ledger, app),
        outbox=SQLiteOutbox(file, app),
        connection=file,
    )
