"""Where a process keeps what must outlive an event: ledger, dead letters, checkpoints, outbox."""

from headrace.stores.store import Store, open_store

__all__ = ["Store", "open_store"]
