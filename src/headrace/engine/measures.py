"""What the engine counts: plain integers and arrays, written on the hot path, read by `headrace.observe` at scrape.

Nothing here knows a metrics format. Labels are declared names and enums only.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

__all__ = ["OUTCOMES", "HandlerMeasures", "Histogram", "SinkMeasures", "SourceMeasures", "StoreMeasures"]

OUTCOMES: Final = ("ok", "duplicate", "filtered", "expired", "retry", "dead", "dropped", "timeout", "cancelled")
#: How a replayed dead letter ends: handled, known already, given up again, dropped, or not for this handler any more.
REPLAYED: Final = ("ok", "duplicate", "dead", "dropped", "filtered", "expired")
#: Distinct exception types counted for a handler; further ones count as "other".
EXCEPTION_TYPES: Final = 50

DURATIONS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
AGES: Final = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)


class Histogram:
    """Counts per bucket (``counts[i]``: values ≤ ``bounds[i]`` and above the bound before; the last one: above all) and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = DURATIONS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, count: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count


class HandlerMeasures:
    """One handler. ``outcomes``: events by how they ended; ``duration``: seconds an attempt; ``age``: seconds from the event's
    time to its handling; ``exceptions``: by type name, capped; ``lookups``: ledger answers (``fresh duplicate busy``);
    ``replayed``: replays by how they ended (`REPLAYED`); ``fenced``: completions refused because the claim was lost;
    ``saw_replays``: until then none is looked for."""

    __slots__ = (
        "age",
        "duration",
        "exceptions",
        "fenced",
        "limit",
        "lookups",
        "name",
        "outcomes",
        "replayed",
        "saw_replays",
    )

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.duration = Histogram()
        self.age = Histogram(AGES)
        self.exceptions: dict[str, int] = {}
        self.lookups = {"fresh": 0, "duplicate": 0, "busy": 0}
        self.replayed = dict.fromkeys(REPLAYED, 0)
        self.saw_replays = False
        self.fenced = 0

    def exception(self, error: BaseException) -> None:
        """Count one failed attempt by the exception's type."""
        name = type(error).__name__
        if name not in self.exceptions and len(self.exceptions) >= EXCEPTION_TYPES:
            name = "other"
        self.exceptions[name] = self.exceptions.get(name, 0) + 1


class SourceMeasures:
    """One subscription. ``rejected``: undecodable or unusable deliveries by reason (``decode data key``)."""

    __slots__ = ("name", "received", "rejected")

    def __init__(self, name: str) -> None:
        self.name = name
        self.received = 0
        self.rejected: dict[str, int] = {}


class SinkMeasures:
    """One sink. ``published``: by outcome (``ok duplicate failed``); ``duration``: seconds from publish to confirmation."""

    __slots__ = ("duration", "name", "published")

    def __init__(self, name: str) -> None:
        self.name = name
        self.published = {"ok": 0, "duplicate": 0, "failed": 0}
        self.duration = Histogram()


class StoreMeasures:
    """The store. By operation (``claim mark record release put checkpoint …``): seconds a call, and calls that failed."""

    __slots__ = ("durations", "errors")

    def __init__(self) -> None:
        self.durations: dict[str, Histogram] = {}
        self.errors: dict[str, int] = {}

    def add(self, operation: str, seconds: float) -> None:
        histogram = self.durations.get(operation)
        if histogram is None:
            histogram = self.durations[operation] = Histogram()
        histogram.add(seconds)

    def error(self, operation: str) -> None:
        self.errors[operation] = self.errors.get(operation, 0) + 1
