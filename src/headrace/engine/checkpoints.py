"""Two small durable records beside the ledger: how far a source has been handled, and the starts of suspects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from headrace.engine.ledger import Identity

__all__ = ["Checkpoints", "Suspects"]


@runtime_checkable
class Checkpoints(Protocol):
    """How far a source without acknowledgements has been handled. Values are opaque bytes under names chosen by the
    source; ``scope`` is ``<app>__<handler>``. Trouble raises `StoreUnavailable`."""

    async def load(self, scope: str) -> Mapping[str, bytes]:
        """Everything saved under the scope."""
        ...

    async def save(self, scope: str, changes: Mapping[str, bytes | None]) -> None:
        """Write each (``None`` removes); atomic, durable when it returns."""


@runtime_checkable
class Suspects(Protocol):
    """Starts of deliveries that a process may have died of (delivery.md, Retry). Trouble raises `StoreUnavailable`."""

    async def begin(self, app: str, process: str) -> bool:
        """Record that this process runs the app. ``True`` if what a source marks as delivered before may have been running
        when a process ended uncleanly."""
        ...

    async def recorded(self, handler: str, identities: Sequence[Identity]) -> Sequence[int]:
        """How many starts of each are recorded; nothing is written."""
        ...

    async def started(self, handler: str, identities: Sequence[Identity]) -> Sequence[int]:
        """Record one more start of each, durably before this returns; how many starts are recorded now."""
        ...

    async def finished(self, handler: str, identities: Sequence[Identity]) -> None:
        """Forget these: they ended without taking the process with them."""

    async def end(self, app: str, process: str) -> None:
        """Record a clean end."""
