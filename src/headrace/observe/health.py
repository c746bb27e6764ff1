"""The three probes: what each of them asks, and nothing else.

``/startupz``: imported, store migrated, connected once. ``/livez``: the loop runs; never the broker, or an outage of
the broker would become a storm of restarts. ``/readyz``: every subscription is connected, the store answers, and the
app is not draining.
An orchestrator acts on the status; people read the body, which says what is amiss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from headrace.observe.state import HandlerState, Runtime

__all__ = ["Verdict", "liveness", "readiness", "startup"]


class Verdict(NamedTuple):
    """``good`` decides the status; ``body`` is the JSON answer."""

    good: bool
    body: dict[str, Any]


def startup(runtime: Runtime | None) -> Verdict:
    """Whether the app has started: passed once, it stays so."""
    if runtime is not None and runtime.started:
        return Verdict(True, {"status": "started"})
    return Verdict(False, {"status": "starting", "reasons": ["store, broker or sources are not open yet"]})


def liveness(loop_lag: float) -> Verdict:
    """The event loop answers, so it lives; how late it was lately is for people."""
    return Verdict(True, {"status": "alive", "event_loop_lag_seconds": round(loop_lag, 3)})


def readiness(runtime: Runtime | None) -> Verdict:
    """Whether work may be expected of the app now, and why not; what holds a handler up without making it unready is
    told with the handler."""
    if runtime is None or not runtime.started:
        return Verdict(False, {"status": "not ready", "reasons": ["the app is starting"]})
    reasons = ["the app is draining"] if runtime.draining else []
    handlers: dict[str, Any] = {}
    for handler in runtime.handlers:
        name = handler.measures.name
        handlers[name] = _handler(handler)
        if handler.store_trouble:
            reasons.append(handler.store_trouble)
        reasons.extend(
            f"handler {name}: source {source['name']} is not connected" + (f": {detail}" if detail else "")
            for source in handlers[name]["sources"]
            if not source["connected"]
            for detail in (source.get("detail"),)
        )
    body: dict[str, Any] = {"status": "not ready" if reasons else "ready"}
    if reasons:
        body["reasons"] = reasons
    body["handlers"] = handlers
    return Verdict(not reasons, body)


def _handler(handler: HandlerState) -> dict[str, Any]:
    shown: dict[str, Any] = {"inflight": handler.inflight}
    if handler.paused:
        shown["paused"] = True
    detail = handler.health_detail()
    if detail:
        shown["detail"] = detail
    shown["sources"] = sources = []
    for subscription in handler.subscriptions:
        progress = subscription.source.progress()
        source: dict[str, Any] = {"name": subscription.source.name, "connected": progress.connected}
        if progress.owner is not None:
            source["owner"] = progress.owner
        if progress.owned_by:
            source["owned_by"] = progress.owned_by
        if progress.lag_events is not None:
            source["lag_events"] = progress.lag_events
        if progress.lag_seconds is not None:
            source["lag_seconds"] = round(progress.lag_seconds, 3)
        # What a source of a consumer group has beside.
        for trait, shown_as in (("rebalances", "rebalances"), ("poll_age", "poll_age_seconds")):
            value = getattr(subscription.source, trait, None)
            if value is not None:
                source[shown_as] = round(value, 3)
        if progress.expired:
            source["expired_unread"] = progress.expired
        if progress.detail:
            source["detail"] = progress.detail
        sources.append(source)
    return shown
