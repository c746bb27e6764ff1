"""What a receiver counts: seconds a request by status, read by `headrace.observe` at scrape."""

from __future__ import annotations

from headrace.engine.measures import Histogram

__all__ = ["RequestMeasures"]


class RequestMeasures:
    """One receiver. ``durations``: by status code, seconds from the request's headers to its answer."""

    __slots__ = ("durations",)

    def __init__(self) -> None:
        self.durations: dict[int, Histogram] = {}

    def add(self, status: int, seconds: float) -> None:
        histogram = self.durations.get(status)
        if histogram is None:
            histogram = self.durations[status] = Histogram()
        histogram.add(seconds)
