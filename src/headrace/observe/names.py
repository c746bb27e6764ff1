"""Every metric: its name, kind, labels and meaning. No metric is written that is not here, and a test holds the list.

Labels carry declared names and enumerations only, never ids, subjects, keys, URLs or the text of exceptions.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["METRICS", "Metric"]


class Metric(NamedTuple):
    """One metric family. ``name`` is without the ``headrace_`` prefix and, for counters, without ``_total``."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def _named(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


METRICS: Final = _named(
    Metric("events_received", "counter", ("source",), "Deliveries that a source handed over"),
    Metric("events_rejected", "counter", ("source", "reason"), "Deliveries that could not be decoded or used"),
    Metric("events_processed", "counter", ("handler", "outcome"), "Events by how their delivery ended"),
    Metric("handler_duration_seconds", "histogram", ("handler",), "Seconds an attempt took"),
    Metric("event_age_seconds", "histogram", ("handler",), "Seconds from an event's time to its handling"),
    Metric("handler_exceptions", "counter", ("handler", "error_type"), "Failed attempts by exception type (capped)"),
    Metric("events_inflight", "gauge", ("handler",), "Attempts that run now"),
    Metric("handler_concurrency_limit", "gauge", ("handler",), "Attempts that may run at once"),
    Metric("handler_paused", "gauge", ("handler",), "1 while the handler is paused"),
    Metric("source_lag_events", "gauge", ("source",), "Events that wait to be fetched, where the source knows"),
    Metric("source_lag_seconds", "gauge", ("source",), "Age of the oldest event that waits, where the source knows"),
    Metric("source_connected", "gauge", ("source",), "1 while the source is connected"),
    Metric("source_reconnects", "counter", ("source",), "Connections made anew after one was lost"),
    Metric("source_poll_age_seconds", "gauge", ("source",), "Seconds since the source's client last polled its broker"),
    Metric("rebalances", "counter", ("source",), "Times that a source's partitions were handed out anew"),
    Metric("watch_restarts", "counter", ("resource", "reason"), "Watches begun anew"),
    Metric("dlq_events", "gauge", ("handler",), "Dead letters that wait for a decision"),
    Metric("dlq_oldest_seconds", "gauge", ("handler",), "Age of the oldest dead letter that waits"),
    Metric("dlq_replayed", "counter", ("handler", "outcome"), "Replayed dead letters by how they ended"),
    Metric("published", "counter", ("sink", "outcome"), "Events published by a sink"),
    Metric("publish_duration_seconds", "histogram", ("sink",), "Seconds from publish to confirmation"),
    Metric("idempotency_lookups", "counter", ("handler", "result"), "Answers of the ledger to claims"),
    Metric("store_operation_duration_seconds", "histogram", ("op",), "Seconds an operation of the store took"),
    Metric("store_errors", "counter", ("op",), "Operations of the store that failed"),
    Metric("http_request_duration_seconds", "histogram", ("source", "code"), "Seconds a request to a receiver took"),
    Metric("event_loop_lag_seconds", "gauge", (), "The latest that the event loop ran a timer in the last 15 seconds"),
    Metric("draining", "gauge", (), "1 while the app drains"),
    Metric("build_info", "gauge", ("version", "python"), "Version of the framework and of Python"),
    Metric("handler_info", "gauge", ("handler", "source"), "Which source feeds which handler"),
)
