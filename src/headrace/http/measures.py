"""What a receiver counts: seconds a request by status, read by `headrace.observe` at scrape."""

from __future__ import annotations

from headrace.engine.measures import Histogram

__all__ = ["RequestMeasures"]


class RequestMeasures:
    """One receiver. ``durations``: by status code, seconds from the request's headers to its answer; ``rejected``: requests
    that held no event which could be decoded, by reason as `headrace.engine.measures.SourceMeasures` has it."""

    __slots__ = ("durations", "rejected")

    def __init__(self) -> None:
        self.durations: dict[int, Histogram] = {}
        self.rejected: dict[str, int] = {}

    def refused(self, status: int) -> None:
        """A request to deliver was answered before it reached a handler."""
        if status in (400, 415):
            self.rejected["decode"] = self.rejected.get("decode", 0) + 1

    def add(self, status: int, seconds: float) -> None:
        histogram = self.durations.get(status)
        if histogram is None:
            histogram = self.durations[status] = Histogram()
        histogram.add(seconds)
