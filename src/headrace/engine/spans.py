"""The engine's contract with a tracer: spans of attempts, publishes and settlements. `headrace.observe.tracing` keeps it.

A runtime has one or none; where there is none, nothing of this costs anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery
    from headrace.engine.sink import Publication, Published

__all__ = ["Sending", "Span", "Tracer"]


class Span(Protocol):
    """One that has been started."""

    def end(self, error: BaseException | None = None) -> None:
        """It is over."""


class Sending(Span, Protocol):
    """That of a publish call."""

    publications: Sequence[Publication]

    def sent(self, results: Sequence[Published | Exception]) -> None:
        """It is over, with these results."""


class Tracer(Protocol):
    """Starts spans."""

    def attempt(self, delivery: Delivery, handler: str, context: Context) -> Span:
        """An attempt begins, in this context."""
        ...

    def send(self, sink: str, publications: Sequence[Publication], origins: Sequence[Any] = ()) -> Sending:
        """These are published; ``origins`` are the spans of the attempts that they come from."""
        ...

    def settle(self, source: str, attempts: Sequence[Any]) -> Span:
        """The deliveries of these attempts are settled."""
        ...
