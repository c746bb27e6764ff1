"""What observation reads of a running app. The engine's `Runtime` fits these protocols; nothing here imports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from headrace.engine.measures import HandlerMeasures, Histogram, SinkMeasures, SourceMeasures, StoreMeasures
    from headrace.engine.source import Progress

__all__ = ["Counts", "DeadLetterCounts", "HandlerState", "RequestState", "Runtime", "SourceState", "SubscriptionState"]


class SourceState(Protocol):
    """A source. Optional attributes, read where they exist: ``requests`` (`RequestState`), ``rebalances`` (how often
    its partitions were handed out anew), ``poll_age`` (seconds since its client last polled), ``watch_restarts`` (by
    resource and reason: how often a watch began anew)."""

    name: str

    def progress(self) -> Progress: ...


class RequestState(Protocol):
    """What an HTTP source counts: seconds a request, by status code."""

    durations: Mapping[int, Histogram]


class SubscriptionState(Protocol):
    @property
    def source(self) -> SourceState: ...

    @property
    def measures(self) -> SourceMeasures: ...


class HandlerState(Protocol):
    """``inflight``: attempts that run now; ``limit``: how many may; ``health_detail``: what holds it up, or empty;
    ``store_trouble``: that a store does not answer, or empty."""

    measures: HandlerMeasures
    inflight: int
    limit: int
    paused: bool

    @property
    def subscriptions(self) -> Sequence[SubscriptionState]: ...

    @property
    def store_trouble(self) -> str: ...

    def health_detail(self) -> str: ...


#: Handler → letters in state ``dead``, and when the oldest was stored (seconds since the epoch).
Counts = Mapping[str, tuple[int, float]]


class DeadLetterCounts(Protocol):
    async def counts(self, app: str) -> Counts: ...


class Runtime(Protocol):
    """A running app. ``started``: every subscription may fetch; ``draining``: the end has begun."""

    app_name: str
    started: bool
    draining: bool

    @property
    def handlers(self) -> Sequence[HandlerState]: ...

    @property
    def sinks(self) -> Mapping[str, SinkMeasures]: ...

    @property
    def store_measures(self) -> StoreMeasures: ...

    @property
    def dead_letters(self) -> DeadLetterCounts: ...
