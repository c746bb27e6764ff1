"""A delivery whose sender waits for the outcome, alone or in a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from headrace.engine.delivery import Delivery, Original, Outcome

if TYPE_CHECKING:
    from headrace.event import Event
    from headrace.http.answers import Answer
    from headrace.http.source import HttpSource

__all__ = ["Batch", "HttpDelivery"]

#: Headers that belong to the event or to its trace; others (credentials, cookies) are never kept.
_KEPT = (b"content-type", b"traceparent", b"tracestate")


class Batch:
    """The events of one request; its answer is due when all of them are settled."""

    __slots__ = ("answered", "open", "outcomes")

    def __init__(self, size: int, answered: Callable[[Answer], None]) -> None:
        self.answered: Callable[[Answer], None] | None = answered
        self.outcomes: list[Outcome | None] = [None] * size
        self.open = size

    def settle(self, index: int, outcome: Outcome) -> Sequence[Outcome] | None:
        """Note the outcome of one event; all of them once the last is known."""
        if self.outcomes[index] is not None:
            return None
        self.outcomes[index] = outcome
        self.open -= 1
        return None if self.open else [outcome for outcome in self.outcomes if outcome is not None]


class HttpDelivery(Delivery):
    """One event of one request.

    ``answered`` is told its answer, once (a batch's events share a `Batch` instead); ``counted`` while it takes one of
    the source's places; ``since`` is the loop's time of its arrival.
    """

    __slots__ = ("answered", "batch", "body", "counted", "headers", "index", "since")

    answers = True

    def __init__(
        self,
        source: HttpSource,
        event: Event,
        size: int,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        since: float,
        answered: Callable[[Answer], None] | None,
    ) -> None:
        super().__init__(source, event, size)
        self.headers = headers
        self.body = body
        self.since = since
        self.answered = answered
        self.batch: Batch | None = None
        self.index = 0
        self.counted = True

    @property
    def metadata(self) -> Mapping[str, str | int | float]:
        return {"path": self.source.name.removeprefix("http:")}

    def original(self) -> Original:
        """The event's own headers and body as they came; of a batch, this event alone in structured mode."""
        if self.batch is not None:
            return super().original()
        kept = [
            (name.decode("latin-1"), value) for name, value in self.headers if name in _KEPT or name.startswith(b"ce-")
        ]
        return Original(kept, self.body)
