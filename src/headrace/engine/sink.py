"""The engine's contract with a sink: where events go, published and confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from headrace.engine.broker import Broker
    from headrace.event import Event

__all__ = ["Publication", "Published", "Sink", "SinkDeclaration"]


class Publication(NamedTuple):
    """One event on its way out. ``key``: the ordering key (also the ``partitionkey`` extension); ``replay``: the replay
    number of the delivery that it derives from, part of the broker's deduplication id; ``headers``: transport headers
    beside the event's own (hop context), never attributes."""

    event: Event
    key: str | None = None
    replay: int = 0
    headers: Sequence[tuple[str, str]] = ()


class Published(NamedTuple):
    """The broker has it. ``duplicate``: it had it already (same id within its window)."""

    duplicate: bool = False
    position: str = ""


@runtime_checkable
class Sink(Protocol):
    """``name``: declared name for metrics, e.g. ``nats:invoice.created``.

    A sink may have, beside these: ``begin(publication, measures)``, which publishes one event at once, where nothing is in the
    way, and gives the future of its confirmation (the exception as a result), counted in ``measures`` when it comes; ``None``
    where the event has to go through `publish`. Raises `InvalidEvent` for one that cannot be encoded.
    """

    name: str

    async def open(self) -> None:
        """Connect, declare or check the destination. Raises a `HeadraceError` with the exit code that fits."""

    async def publish(self, publications: Sequence[Publication]) -> Sequence[Published | Exception]:
        """Publish in order, pipelined, and wait until each is confirmed. A result per publication: an exception is for
        that one alone. `PublishFailed.transient` tells an outage (the engine waits and repeats) from what no repetition
        mends (too large, refused). May be called again before an earlier call has returned."""
        ...

    async def close(self) -> None: ...


class SinkDeclaration(Protocol):
    """What a user writes in ``publishes=`` or ``app.publish``: settings without a connection."""

    name: str

    def sink(self, broker: Broker | None) -> Sink:
        """The sink; ``broker`` is the app's, or ``None`` where there is none."""
        ...
