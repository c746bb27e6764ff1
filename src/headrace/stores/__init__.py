"""Where a process keeps what must outlive an event: ledger, dead letters, checkpoints, outbox."""

from headrace.engine.transactions import Transaction
from headrace.stores.store import Store, open_store

__all__ = ["Store", "Transaction", "open_store"]
