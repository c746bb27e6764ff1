"""``/metrics``: a collector that reads the engine's plain counters at the moment of a scrape.

Nothing on the hot path knows that it is observed. Two handlers on one source share its label: their counters are added,
the larger lag is shown, and the source counts as connected where all of them are.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from headrace import __version__
from headrace.observe.names import METRICS

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

    from headrace.engine.measures import Histogram
    from headrace.observe.state import Counts, Runtime

__all__ = ["Collector", "Metrics"]

_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


class Metrics:
    """What ``/metrics`` answers. ``runtime`` is ``None`` until the app has started; ``dead_letters`` and ``loop_lag``
    are kept up to date by whoever serves this."""

    def __init__(self) -> None:
        self.runtime: Runtime | None = None
        self.dead_letters: Counts = {}
        self.loop_lag = 0.0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Collector(self))

    def exposition(self, accept: str) -> tuple[str, bytes]:
        """Content type and body: OpenMetrics where it is asked for, else the text format."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)


class Collector:
    """One pass over the state of the app."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Family]:
        """Nothing to describe: names come from the table and are known to be distinct."""
        return []

    def collect(self) -> Iterator[Family]:
        """Every family of the table that has samples now."""
        families: dict[str, Any] = {}
        for name, metric in METRICS.items():
            families[name] = _FAMILIES[metric.kind](f"headrace_{name}", metric.meaning, labels=metric.labels)
        samples = _Samples(families)
        samples.gauge("build_info", 1, __version__, platform.python_version())
        samples.gauge("event_loop_lag_seconds", self._metrics.loop_lag)
        runtime = self._metrics.runtime
        if runtime is not None:
            self._collect_runtime(runtime, samples)
        samples.write()
        for family in families.values():
            if family.samples:
                yield family

    def _collect_runtime(self, runtime: Runtime, samples: _Samples) -> None:
        samples.gauge("draining", runtime.draining)
        for handler in runtime.handlers:
            measures = handler.measures
            name = measures.name
            samples.gauge("events_inflight", handler.inflight, name)
            samples.gauge("handler_concurrency_limit", handler.limit, name)
            samples.gauge("handler_paused", handler.paused, name)
            samples.counters("events_processed", measures.outcomes, name)
            samples.counters("handler_exceptions", measures.exceptions, name)
            samples.counters("idempotency_lookups", measures.lookups, name)
            samples.counters("dlq_replayed", measures.replayed, name)
            samples.histogram("handler_duration_seconds", measures.duration, name)
            samples.histogram("event_age_seconds", measures.age, name)
            for subscription in handler.subscriptions:
                samples.gauge("handler_info", 1, name, subscription.source.name)
                samples.counter("events_received", subscription.measures.received, subscription.source.name)
                samples.counters("events_rejected", subscription.measures.rejected, subscription.source.name)
                self._collect_source(subscription.source, samples)
        for sink in runtime.sinks.values():
            samples.counters("published", sink.published, sink.name)
            samples.histogram("publish_duration_seconds", sink.duration, sink.name)
        store = runtime.store_measures
        for operation, durations in store.durations.items():
            samples.histogram("store_operation_duration_seconds", durations, operation)
        samples.counters("store_errors", store.errors)
        now = time.time()
        for name, (count, oldest) in self._metrics.dead_letters.items():
            samples.gauge("dlq_events", count, name)
            samples.gauge("dlq_oldest_seconds", max(0.0, now - oldest) if count else 0.0, name)

    def _collect_source(self, source: Any, samples: _Samples) -> None:
        progress = source.progress()
        name = source.name
        samples.lowest("source_connected", progress.connected, name)
        samples.counter("source_reconnects", progress.reconnects, name)
        if progress.lag_events is not None:
            samples.highest("source_lag_events", progress.lag_events, name)
        if progress.lag_seconds is not None:
            samples.highest("source_lag_seconds", progress.lag_seconds, name)
        requests = getattr(source, "requests", None)
        if requests is not None:
            for code, durations in requests.durations.items():
                samples.histogram("http_request_duration_seconds", durations, name, str(code))
            samples.counters("events_rejected", requests.rejected, name)
        rebalances = getattr(source, "rebalances", None)
        if rebalances is not None:
            samples.counter("rebalances", rebalances, name)
        poll_age = getattr(source, "poll_age", None)
        if poll_age is not None:
            samples.highest("source_poll_age_seconds", poll_age, name)
        for (resource, reason), count in getattr(source, "watch_restarts", {}).items():
            samples.counter("watch_restarts", count, resource, reason)


class _Samples:
    """Collects values by family and labels, so that no series is written twice."""

    def __init__(self, families: dict[str, Any]) -> None:
        self._families = families
        self._values: dict[tuple[str, tuple[str, ...]], float] = {}

    def counter(self, family: str, value: float, *labels: str) -> None:
        place = (family, labels)
        self._values[place] = self._values.get(place, 0) + value

    def counters(self, family: str, values: Mapping[str, int], *labels: str) -> None:
        for last, value in values.items():
            self.counter(family, value, *labels, last)

    def gauge(self, family: str, value: float, *labels: str) -> None:
        self._values[family, labels] = float(value)

    def highest(self, family: str, value: float, *labels: str) -> None:
        place = (family, labels)
        self._values[place] = max(value, self._values.get(place, value))

    def lowest(self, family: str, value: float, *labels: str) -> None:
        place = (family, labels)
        self._values[place] = min(float(value), self._values.get(place, 1.0))

    def histogram(self, family: str, histogram: Histogram, *labels: str) -> None:
        bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        self._families[family].add_metric(labels, buckets, histogram.total)

    def write(self) -> None:
        for (family, labels), value in self._values.items():
            self._families[family].add_metric(labels, value)
