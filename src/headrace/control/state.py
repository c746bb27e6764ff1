"""What a running app knows of itself, as plain values: the answers of the control socket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from headrace.control.words import ownership, policy
from headrace.engine.letters import replay_number
from headrace.engine.outputs import derived_id

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery
    from headrace.engine.measures import Histogram
    from headrace.engine.runner import Runner
    from headrace.engine.runtime import Runtime

__all__ = ["handler_detail", "handler_row", "traces"]

#: Lanes that `handler_detail` names.
LANES = 10


def handler_row(runner: Runner) -> dict[str, Any]:
    """One handler in one line."""
    sources = []
    for subscription in runner.subscriptions:
        progress = subscription.source.progress()
        sources.append(
            {
                "name": subscription.source.name,
                "connected": progress.connected,
                "owner": progress.owner,
                "ownership": ownership(progress.owner, progress.owned_by),
                "lag_events": progress.lag_events,
                "received": subscription.measures.received,
                "detail": progress.detail,
            }
        )
    return {
        "handler": runner.handler.name,
        "paused": runner.paused,
        "paused_by_operator": runner.paused_by("operator"),
        "breaker_open": runner.breaker.open,
        "inflight": runner.inflight,
        "limit": runner.limit,
        "waiting": max(0, runner.held_items - runner.inflight),
        "parked": runner.parking.items,
        "outcomes": dict(runner.measures.outcomes),
        "sources": sources,
        "detail": runner.health_detail(),
    }


def handler_detail(runner: Runner) -> dict[str, Any]:
    """One handler with its policy, times, errors and the lanes that wait longest."""
    duration = runner.measures.duration
    parked = sorted(runner.parking.places.items(), key=lambda item: -item[1].items)[:LANES]
    now = runner._loop.time()
    sources = [subscription.source for subscription in runner.subscriptions]
    answers = any(getattr(source, "answers", False) for source in sources)
    lane = getattr(sources[0], "default_lane", "") if sources else ""
    return {
        **handler_row(runner),
        "policy": policy(runner.handler, sources[0].name if sources else "", lane=lane, answers=answers),
        "seconds": {
            "p50": _quantile(duration, 0.5),
            "p95": _quantile(duration, 0.95),
            "p99": _quantile(duration, 0.99),
        },
        "exceptions": dict(runner.measures.exceptions),
        "lookups": dict(runner.measures.lookups),
        "parked_lanes": [
            {"key": head._lane, "events": place.items, "due_in": round(max(0.0, place.due - now), 1), **_attempts(head)}
            for head, place in parked
        ],
    }


def _quantile(histogram: Histogram, share: float) -> float | None:
    """The bound of the bucket that the quantile falls into; ``None`` without values or above all bounds."""
    wanted = sum(histogram.counts) * share
    seen = 0
    if wanted <= 0:
        return None
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        seen += count
        if seen >= wanted:
            return bound
    return None


def traces(runtime: Runtime, id: str) -> Iterator[dict[str, Any]]:
    """Every delivery of an event that this process holds: running, waiting in its lane, parked, being settled."""
    for runner in runtime.handlers:
        running = set(runner.deadlines.running())
        for subscription in runner.subscriptions:
            for delivery in subscription.held:
                if delivery.event is None or delivery.event.id != id:
                    continue
                yield {
                    "what": "delivery",
                    "handler": runner.handler.name,
                    "source": subscription.source.name,
                    "event_id": id,
                    "event_source": delivery.event.source,
                    "state": _state(runner, delivery, running),
                    "lane": delivery._lane,
                    "attempt": delivery.attempt,
                    **_attempts(delivery),
                    "origin": dict(delivery.metadata),
                    "outputs": _outputs(runner, delivery),
                }


def _state(runner: Runner, delivery: Delivery, running: set[Delivery]) -> str:
    if delivery in running:
        return "running"
    place = runner.parking.places.get(delivery)
    if place is not None:
        return f"waiting {max(0.0, place.due - runner._loop.time()):.1f} s for its next attempt"
    if delivery._claim in ("ours", "busy"):
        return "waiting for the claim of another delivery of it"
    if delivery.attempt and delivery in runner.outcomes.waiting_lanes:
        return "handled, its outputs or its dead letter being confirmed"
    if delivery._lane is not None and runner.lanes.get(delivery._lane) is not None:
        return "waiting in its lane"
    return "waiting or being settled"


def _attempts(delivery: Delivery) -> dict[str, Any]:
    history = delivery._history
    if history is None:
        return {"failed": []}
    return {
        "failed": [{"at": one.at, "exception": one.exception, "message": one.message} for one in history.errors],
        "first_attempt": history.first,
        "age": round(time.time() - history.first, 1),
    }


def _outputs(runner: Runner, delivery: Delivery) -> list[dict[str, str]]:
    """Where its outputs go, and the id that the first one has, published already or not."""
    event = delivery.event
    if runner.handler.publishes is None or event is None:
        return []
    first = derived_id(event, runner.handler.name, 0, replay_number(delivery))
    return [{"to": runner.handler.publish_type, "first_id": first}]
