"""/metrics holds the documented names and labels and no others, and its figures are the engine's."""

from __future__ import annotations

import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from headrace.engine.measures import SinkMeasures
from headrace.engine.runtime import Runtime as EngineRuntime
from headrace.engine.source import Progress
from headrace.observe.metrics import Metrics
from headrace.observe.names import METRICS
from tests.observe.state import Handler, HttpSource, KafkaSource, Runtime, Source, WatchSource

# The list of design and documentation, spelled out: a name or label is changed here on purpose or not at all.
DOCUMENTED = {
    "headrace_events_received_total": {"source"},
    "headrace_events_rejected_total": {"source", "reason"},
    "headrace_events_processed_total": {"handler", "outcome"},
    "headrace_handler_duration_seconds": {"handler"},
    "headrace_event_age_seconds": {"handler"},
    "headrace_handler_exceptions_total": {"handler", "error_type"},
    "headrace_events_inflight": {"handler"},
    "headrace_handler_concurrency_limit": {"handler"},
    "headrace_handler_paused": {"handler"},
    "headrace_source_lag_events": {"source"},
    "headrace_source_lag_seconds": {"source"},
    "headrace_source_connected": {"source"},
    "headrace_source_reconnects_total": {"source"},
    "headrace_source_poll_age_seconds": {"source"},
    "headrace_rebalances_total": {"source"},
    "headrace_watch_restarts_total": {"resource", "reason"},
    "headrace_dlq_events": {"handler"},
    "headrace_dlq_oldest_seconds": {"handler"},
    "headrace_dlq_replayed_total": {"handler", "outcome"},
    "headrace_published_total": {"sink", "outcome"},
    "headrace_publish_duration_seconds": {"sink"},
    "headrace_idempotency_lookups_total": {"handler", "result"},
    "headrace_store_operation_duration_seconds": {"op"},
    "headrace_store_errors_total": {"op"},
    "headrace_http_request_duration_seconds": {"source", "code"},
    "headrace_event_loop_lag_seconds": set(),
    "headrace_draining": set(),
    "headrace_build_info": {"version", "python"},
    "headrace_handler_info": {"handler", "source"},
}


def everything() -> Metrics:
    """An app in which every metric has a sample."""
    http = HttpSource("http:/events")
    http.requests.add(204, 0.01)
    watch = WatchSource("kubernetes:pods", watch_restarts={("pods", "gone"): 2})
    lagging = Progress(connected=True, lag_events=7, lag_seconds=1.5, reconnects=3)
    handler = Handler("bill", KafkaSource("kafka:order.created", lagging, rebalances=4), http, watch)
    handler.measures.exception(ValueError("never shown"))
    handler.measures.replayed["ok"] = 1
    handler.measures.duration.add(0.02)
    handler.measures.outcomes["ok"] = 12
    for subscription in handler.subscriptions:
        subscription.measures.received = 5
        subscription.measures.rejected["decode"] = 1
    runtime = Runtime(handler)
    runtime.sinks["x"] = SinkMeasures("nats:invoice.created")
    runtime.store_measures.add("claim", 0.001)
    runtime.store_measures.error("mark")
    metrics = Metrics()
    metrics.runtime = runtime
    metrics.dead_letters = {"bill": (3, time.time() - 100)}
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    content_type, body = metrics.exposition("")
    assert content_type.startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(body.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def test_every_documented_name_is_written_and_no_other() -> None:
    suffixes = ("_bucket", "_sum", "_count")
    written: dict[str, set[str]] = {}
    for name, labels in samples(everything()):
        for suffix in suffixes:
            if name.endswith(suffix) and name.removesuffix(suffix) in DOCUMENTED:
                name = name.removesuffix(suffix)
        written[name] = {label for label, _ in labels if label != "le"}
    assert written == DOCUMENTED


def test_a_receiver_adds_the_requests_that_held_no_event() -> None:
    metrics = everything()
    receiver = metrics.runtime.handlers[0].subscriptions[1].source  # type: ignore[union-attr]
    receiver.requests.refused(400)
    receiver.requests.refused(429)
    assert value(metrics, "headrace_events_rejected_total", source="http:/events", reason="decode") == 2


def test_the_table_of_names_is_the_documented_one() -> None:
    table = {
        f"headrace_{metric.name}" + ("_total" if metric.kind == "counter" else ""): set(metric.labels)
        for metric in METRICS.values()
    }
    assert table == DOCUMENTED


def test_openmetrics_is_written_where_it_is_asked_for() -> None:
    content_type, body = everything().exposition("application/openmetrics-text; version=1.0.0; q=0.9, text/plain;q=0.1")
    assert content_type.startswith("application/openmetrics-text")
    families = {family.name: family for family in parse_openmetrics(body.decode())}
    assert families["headrace_events_processed"].type == "counter"
    assert families["headrace_handler_duration_seconds"].type == "histogram"
    assert body.endswith(b"# EOF\n")


def test_a_histogram_has_cumulative_buckets_a_count_and_a_sum() -> None:
    handler = Handler("bill")
    for seconds in (0.0004, 0.0005, 0.003, 100.0):
        handler.measures.duration.add(seconds)
    metrics = Metrics()
    metrics.runtime = Runtime(handler)
    name = "headrace_handler_duration_seconds"
    assert value(metrics, f"{name}_bucket", handler="bill", le="0.0005") == 2
    assert value(metrics, f"{name}_bucket", handler="bill", le="0.005") == 3
    assert value(metrics, f"{name}_bucket", handler="bill", le="60.0") == 3
    assert value(metrics, f"{name}_bucket", handler="bill", le="+Inf") == 4
    assert value(metrics, f"{name}_count", handler="bill") == 4
    assert value(metrics, f"{name}_sum", handler="bill") == pytest.approx(100.0039)


def test_two_handlers_on_one_source_share_its_series() -> None:
    good = Source("nats:order.created", Progress(connected=True, lag_events=1))
    bad = Source("nats:order.created", Progress(connected=False, lag_events=9))
    first, second = Handler("a", good), Handler("b", bad)
    first.subscriptions[0].measures.received = 3
    second.subscriptions[0].measures.received = 4
    metrics = Metrics()
    metrics.runtime = Runtime(first, second)
    assert value(metrics, "headrace_events_received_total", source="nats:order.created") == 7
    assert value(metrics, "headrace_source_lag_events", source="nats:order.created") == 9
    assert value(metrics, "headrace_source_connected", source="nats:order.created") == 0


def test_a_lag_that_the_source_does_not_know_has_no_series() -> None:
    metrics = Metrics()
    metrics.runtime = Runtime(Handler("a", Source()))
    assert not [name for name, _ in samples(metrics) if "lag_events" in name or "source_lag_seconds" in name]


def test_before_the_app_has_started_there_is_only_what_needs_no_app() -> None:
    assert {name for name, _ in samples(Metrics())} == {"headrace_build_info", "headrace_event_loop_lag_seconds"}


def test_a_counter_never_goes_down_between_scrapes() -> None:
    metrics = everything()
    before = samples(metrics)
    metrics.runtime.handlers[0].measures.outcomes["ok"] += 1  # type: ignore[union-attr]
    after = samples(metrics)
    counters = [key for key in before if key[0].endswith(("_total", "_count", "_bucket"))]
    assert counters
    assert all(after[key] >= before[key] for key in counters)


def test_the_age_of_the_oldest_dead_letter_is_seconds_and_zero_without_one() -> None:
    metrics = everything()
    assert 99 < value(metrics, "headrace_dlq_oldest_seconds", handler="bill") < 200
    metrics.dead_letters = {"bill": (0, 0.0)}
    assert value(metrics, "headrace_dlq_oldest_seconds", handler="bill") == 0


@pytest.mark.parametrize("attribute", ["handlers", "sinks", "store_measures", "dead_letters", "started", "draining"])
def test_the_engines_runtime_has_what_is_read(attribute: str) -> None:
    runtime = EngineRuntime("shop", ledger=None, dead_letters=object(), sink=lambda _: None)  # type: ignore[arg-type, return-value]
    assert hasattr(runtime, attribute)
