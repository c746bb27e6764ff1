"""A model of a running app: what observation reads, with values that the test chooses."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.engine.measures import HandlerMeasures, SinkMeasures, SourceMeasures, StoreMeasures
from headrace.engine.source import Progress
from headrace.http.measures import RequestMeasures


@dataclass
class Source:
    name: str = "nats:order.created"
    state: Progress = field(default_factory=lambda: Progress(connected=True))

    def progress(self) -> Progress:
        return self.state


@dataclass
class HttpSource(Source):
    requests: RequestMeasures = field(default_factory=RequestMeasures)


@dataclass
class KafkaSource(Source):
    rebalances: int = 0
    poll_age: float = 0.0


@dataclass
class WatchSource(Source):
    watch_restarts: dict[tuple[str, str], int] = field(default_factory=dict)


class Subscription:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.measures = SourceMeasures(source.name)


class Handler:
    def __init__(self, name: str, *sources: Source, limit: int = 64) -> None:
        self.measures = HandlerMeasures(name, limit)
        self.inflight = 0
        self.limit = limit
        self.paused = False
        self.detail = self.store_trouble = ""
        self.subscriptions = [Subscription(source) for source in sources]

    def health_detail(self) -> str:
        return self.detail


class DeadLetters:
    def __init__(self) -> None:
        self.found: dict[str, tuple[int, float]] = {}
        self.asked = 0
        self.failure: Exception | None = None

    async def counts(self, app: str) -> dict[str, tuple[int, float]]:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return self.found


class Runtime:
    def __init__(self, *handlers: Handler) -> None:
        self.app_name = "shop"
        self.handlers = list(handlers)
        self.sinks: dict[str, SinkMeasures] = {}
        self.store_measures = StoreMeasures()
        self.dead_letters = DeadLetters()
        self.started = True
        self.draining = False
