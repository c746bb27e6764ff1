"""Traces by the OpenTelemetry API: an application that configured an SDK gets spans, any other pays nothing.

`discover` gives the engine a `Tracer` (its contract: `headrace.engine.spans`), or ``None`` where no SDK is configured; it asks
``is not None`` at three points:

- an attempt: ``attempt = tracer.attempt(delivery, handler, context)`` before the handler's first step in that
  context, and ``attempt.end(error)`` after it; kept with the delivery, it is the origin of what the delivery publishes;
- a publish: ``sending = tracer.send(sink, publications, origins)``, publish ``sending.publications``, then
  ``sending.sent(results)``;
- a settlement: ``settling = tracer.settle(source, attempts)`` and ``settling.end(error)``.

The trace in which an event was created travels in its ``traceparent`` extension, set once and never overwritten; the
hop travels in transport headers. A process span has the hop as its parent, else the creation, and links to the
creation. A replay starts a trace of its own, linked to the old one. Names: `headrace.observe.span_names`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextvars import Context as Variables
from typing import TYPE_CHECKING, Any

from headrace.engine.letters import replay_number
from headrace.engine.sink import Publication, Published
from headrace.errors import encodable, words
from headrace.observe import span_names as names

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanContext
    from opentelemetry.trace import Tracer as ApiTracer

    from headrace.engine.delivery import Delivery
    from headrace.event import Event

__all__ = ["Attempt", "Sending", "Settling", "Tracer", "discover"]


def discover() -> Tracer | None:
    """The tracer of the SDK that the application configured, or ``None``. Called once, when the app starts."""
    if "opentelemetry.trace" not in sys.modules and "OTEL_PYTHON_TRACER_PROVIDER" not in os.environ:
        return None  # whoever configures an SDK has imported the API
    try:
        from opentelemetry import trace
    except ModuleNotFoundError:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        return None
    from headrace import __version__

    return Tracer(provider.get_tracer(names.INSTRUMENTATION, __version__))


class Tracer:
    """Starts every span of the runtime."""

    def __init__(self, tracer: ApiTracer) -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._trace = trace
        self._context = context
        self._propagator = TraceContextTextMapPropagator()

    def attempt(self, delivery: Delivery, handler: str, context: Variables) -> Attempt:
        """Start the process span of an attempt and make it current in the context in which the handler will run."""
        event = delivery.event
        creation = self._carried(_creation(event))
        hop = self._carried(_hop(delivery))
        links: list[Link] = []
        parent: Context = self._context.Context()
        if replay_number(delivery):
            links = self._links(creation, hop)
        else:
            parent = hop if self._span_context(hop).is_valid else creation
            if parent is not creation:
                links = self._links(creation)
        system, destination = _split(delivery.source.name)
        attributes: dict[str, Any] = {
            names.SYSTEM: system,
            names.DESTINATION: destination,
            names.OPERATION_NAME: names.PROCESS,
            names.OPERATION_TYPE: names.PROCESS,
            names.CONSUMER_GROUP: handler,
            names.HANDLER: handler,
            names.ATTEMPT: delivery.attempt,
            **_described(event),
        }
        span = self._tracer.start_span(
            f"{names.PROCESS} {destination}",
            context=parent,
            kind=self._trace.SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
        )
        current = self._trace.set_span_in_context(span, parent)
        context.run(self._context.attach, current)
        return Attempt(span, current)

    def send(self, sink: str, publications: Sequence[Publication], origins: Sequence[Attempt | None] = ()) -> Sending:
        """Start the send span of a publish call, and a create span for each event that carries no trace yet.

        ``origins``: for each publication the attempt that it comes from; without them, the code that runs now.
        """
        system, destination = _split(sink)
        here = self._context.get_current()
        created: list[Event] = []
        parents: list[Context] = []
        for index, publication in enumerate(publications):
            origin = origins[index] if index < len(origins) else None
            parent = here if origin is None else origin.context
            event = publication.event
            if event._attributes.get("traceparent") is None:
                event = self._create(event, system, destination, parent)
            created.append(event)
            parents.append(parent)
        one = created[0] if len(created) == 1 else None
        attributes: dict[str, Any] = {
            names.SYSTEM: system,
            names.DESTINATION: destination,
            names.OPERATION_NAME: names.SEND,
            names.OPERATION_TYPE: names.SEND,
            **_described(one),
        }
        if one is None:
            attributes[names.BATCH_COUNT] = len(created)
        span = self._tracer.start_span(
            f"{names.SEND} {destination}",
            context=parents[0] if one is not None else here,
            kind=self._trace.SpanKind.PRODUCER,
            attributes=attributes,
            links=self._links(*(self._carried(_creation(event)) for event in created)),
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context=self._trace.set_span_in_context(span, here))
        hop = tuple(carrier.items())
        return Sending(
            span,
            [
                publication._replace(event=event, headers=(*publication.headers, *hop))
                for publication, event in zip(publications, created, strict=True)
            ],
        )

    def _create(self, event: Event, system: str, destination: str, parent: Context) -> Event:
        """The event with the trace of its creation."""
        span = self._tracer.start_span(
            f"{names.CREATE} {destination}",
            context=parent,
            kind=self._trace.SpanKind.PRODUCER,
            attributes={
                names.SYSTEM: system,
                names.DESTINATION: destination,
                names.OPERATION_NAME: names.CREATE,
                names.OPERATION_TYPE: names.CREATE,
                **_described(event),
            },
        )
        span.end()
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context=self._trace.set_span_in_context(span, parent))
        if "traceparent" not in carrier:
            return event
        return event.replace(traceparent=carrier["traceparent"], tracestate=carrier.get("tracestate") or None)

    def settle(self, source: str, attempts: Sequence[Attempt]) -> Settling:
        """Start the settle span of a batch, linked to the attempts that it ends; of one, in its trace."""
        system, destination = _split(source)
        attributes: dict[str, Any] = {
            names.SYSTEM: system,
            names.DESTINATION: destination,
            names.OPERATION_NAME: names.SETTLE,
            names.OPERATION_TYPE: names.SETTLE,
            names.BATCH_COUNT: len(attempts),
        }
        span = self._tracer.start_span(
            f"{names.SETTLE} {destination}",
            context=attempts[0].context if len(attempts) == 1 else self._context.Context(),
            kind=self._trace.SpanKind.CLIENT,
            attributes=attributes,
            links=self._links(*(attempt.context for attempt in attempts)),
        )
        return Settling(span)

    def _carried(self, carrier: dict[str, str]) -> Context:
        empty = self._context.Context()
        return self._propagator.extract(carrier, context=empty) if carrier else empty

    def _span_context(self, context: Context) -> SpanContext:
        return self._trace.get_current_span(context).get_span_context()

    def _links(self, *contexts: Context) -> list[Link]:
        """A link to each different span of these contexts."""
        found: dict[tuple[int, int], Link] = {}
        for context in contexts:
            span = self._span_context(context)
            if span.is_valid:
                found.setdefault((span.trace_id, span.span_id), self._trace.Link(span))
        return list(found.values())


class _Ending:
    """A span that ends with or without an error."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, error: BaseException | None = None) -> None:
        """End the span; an error is recorded by type, and its text stays out of the status."""
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            kind = type(error).__qualname__
            self._span.set_attribute(names.ERROR_TYPE, kind)
            self._span.set_status(Status(StatusCode.ERROR, kind))
            stack = encodable("".join(traceback.format_exception(error)))
            said = {
                names.EXCEPTION_TYPE: kind,
                names.EXCEPTION_MESSAGE: words(error),
                names.EXCEPTION_STACKTRACE: stack,
            }
            self._span.add_event("exception", said)
        self._span.end()


class Attempt(_Ending):
    """The process span of one attempt; ``context`` is what it gives to what it causes."""

    __slots__ = ("context",)

    def __init__(self, span: Span, context: Context) -> None:
        super().__init__(span)
        self.context = context


class Settling(_Ending):
    """The settle span of a batch."""

    __slots__ = ()


class Sending(_Ending):
    """The send span of a publish call, and the publications to send: with their traces, in extension and headers."""

    __slots__ = ("publications",)

    def __init__(self, span: Span, publications: Sequence[Publication]) -> None:
        super().__init__(span)
        self.publications = publications

    def sent(self, results: Sequence[Published | Exception]) -> None:
        """End the span; the first failure is its error."""
        self.end(next((result for result in results if isinstance(result, Exception)), None))


def _creation(event: Event | None) -> dict[str, str]:
    """The trace context of the event's extension."""
    if event is None:
        return {}
    found = {name: event._attributes.get(name) for name in ("traceparent", "tracestate")}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _hop(delivery: Delivery) -> dict[str, str]:
    """The trace context of the transport headers."""
    found: dict[str, str] = {}
    for name, value in delivery.original().headers:
        if name.lower() in ("traceparent", "tracestate"):
            found[name.lower()] = value.decode("latin-1") if isinstance(value, bytes) else value
    return found


def _described(event: Event | None) -> dict[str, str]:
    if event is None:
        return {}
    described = {
        names.MESSAGE_ID: event.id,
        names.EVENT_ID: event.id,
        names.EVENT_SOURCE: event.source,
        names.EVENT_TYPE: event.type,
        names.EVENT_SPECVERSION: event.specversion,
    }
    if event.subject is not None:
        described[names.EVENT_SUBJECT] = event.subject
    return described


def _split(name: str) -> tuple[str, str]:
    """``nats:order.created`` → system and destination."""
    system, colon, destination = name.partition(":")
    return (system, destination) if colon else ("headrace", name)
