"""Spans as an SDK sees them: parents, links, propagation; and nothing at all without an SDK."""

from __future__ import annotations

import subprocess
import sys
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind

from headrace import Event
from headrace.engine.delivery import Delivery, Original
from headrace.engine.sink import Publication, Published
from headrace.errors import PublishFailed
from headrace.observe import span_names as names
from headrace.observe.tracing import Tracer, discover

CREATED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HOP = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"


class Traced:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = Tracer(provider.get_tracer("test"))

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name.split()[0] == name]


@pytest.fixture
def traced() -> Traced:
    return Traced()


class Source:
    name = "nats:order.created"


class HeaderDelivery(Delivery):
    __slots__ = ("headers",)

    def original(self) -> Original:
        return Original(self.headers, b"{}")


def delivery(*headers: tuple[str, bytes], **attributes: Any) -> Delivery:
    event = Event(type="order.created", source="/shop", id="1", **attributes)
    made = HeaderDelivery(Source(), event, 1)  # type: ignore[arg-type]
    made.headers = headers
    made.attempt = 1
    return made


def span_ids(span: ReadableSpan) -> list[str]:
    return [format(link.context.span_id, "016x") for link in span.links]


def test_an_attempt_without_a_trace_starts_one(traced: Traced) -> None:
    traced.tracer.attempt(delivery(), "bill", copy_context()).end()
    [span] = traced.spans("process")
    assert (span.kind, span.parent, span.links) == (SpanKind.CONSUMER, None, ())
    assert span.name == "process order.created"
    assert span.attributes is not None
    assert span.attributes[names.SYSTEM] == "nats"
    assert span.attributes[names.EVENT_ID] == "1"
    assert span.attributes[names.HANDLER] == "bill"


def test_the_trace_of_creation_is_the_parent_where_there_is_no_hop(traced: Traced) -> None:
    traced.tracer.attempt(delivery(traceparent=CREATED), "bill", copy_context()).end()
    [span] = traced.spans("process")
    assert span.parent is not None
    assert format(span.parent.span_id, "016x") == "b7ad6b7169203331"


def test_the_hop_is_the_parent_and_the_creation_a_link(traced: Traced) -> None:
    arrived = delivery(("Traceparent", HOP.encode()), traceparent=CREATED)
    traced.tracer.attempt(arrived, "bill", copy_context()).end()
    [span] = traced.spans("process")
    assert span.parent is not None
    assert format(span.parent.span_id, "016x") == "00f067aa0ba902b7"
    assert span_ids(span) == ["b7ad6b7169203331"]


def test_a_replay_starts_a_new_trace_linked_to_the_old(traced: Traced) -> None:
    traced.tracer.attempt(delivery(traceparent=CREATED, replaynumber=1), "bill", copy_context()).end()
    [span] = traced.spans("process")
    assert span.parent is None
    assert span_ids(span) == ["b7ad6b7169203331"]


@pytest.mark.parametrize("text", ["", "garbage", "00-" + "0" * 32 + "-b7ad6b7169203331-01"])
def test_a_broken_trace_context_is_ignored(traced: Traced, text: str) -> None:
    traced.tracer.attempt(delivery(("traceparent", text.encode())), "bill", copy_context()).end()
    [span] = traced.spans("process")
    assert span.parent is None


def test_the_span_is_current_in_the_attempts_context_only(traced: Traced) -> None:
    context = copy_context()
    attempt = traced.tracer.attempt(delivery(), "bill", context)
    inside = context.run(trace.get_current_span).get_span_context()
    attempt.end()
    [span] = traced.spans("process")
    assert span.context is not None
    assert inside.span_id == span.context.span_id
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_failed_attempt_names_the_type_of_its_error(traced: Traced) -> None:
    traced.tracer.attempt(delivery(), "bill", copy_context()).end(ValueError("x"))
    [span] = traced.spans("process")
    assert not span.status.is_ok
    assert span.attributes is not None
    assert span.attributes[names.ERROR_TYPE] == "ValueError"


def test_an_output_is_created_in_the_trace_of_the_attempt_that_made_it(traced: Traced) -> None:
    attempt = traced.tracer.attempt(delivery(traceparent=CREATED), "bill", copy_context())
    attempt.end()
    output = Event(type="invoice.created", source="/shop/bill", id="i-1")
    sending = traced.tracer.send("nats:invoice.created", [Publication(output, "k", 2)], [attempt])
    sending.sent([Published()])
    [process], [create], [send] = traced.spans("process"), traced.spans("create"), traced.spans("send")
    assert process.context is not None
    assert create.context is not None
    assert send.context is not None
    assert create.parent is not None
    assert create.parent.span_id == process.context.span_id
    assert (create.kind, send.kind) == (SpanKind.PRODUCER, SpanKind.PRODUCER)
    [publication] = sending.publications
    assert (publication.key, publication.replay) == ("k", 2)
    assert str(publication.event["traceparent"]).split("-")[2] == format(create.context.span_id, "016x")
    assert dict(publication.headers)["traceparent"].split("-")[2] == format(send.context.span_id, "016x")


def test_a_forwarded_event_keeps_the_trace_of_its_creation(traced: Traced) -> None:
    event = Event(type="t", source="/s", id="1", traceparent=CREATED, tracestate="a=b")
    sending = traced.tracer.send("kafka:t", [Publication(event)])
    sending.sent([Published()])
    assert sending.publications[0].event is event
    assert traced.spans("create") == []
    assert span_ids(traced.spans("send")[0]) == ["b7ad6b7169203331"]


def test_a_batch_is_one_send_span_with_a_link_to_each_creation(traced: Traced) -> None:
    events = [Publication(Event(type="t", source="/s", id=str(number))) for number in range(3)]
    traced.tracer.send("nats:t", events).sent([Published()] * 3)
    [send] = traced.spans("send")
    created = [format(span.context.span_id, "016x") for span in traced.spans("create") if span.context]
    assert sorted(span_ids(send)) == sorted(created)
    assert send.attributes is not None
    assert send.attributes[names.BATCH_COUNT] == 3


def test_a_failed_publication_is_the_error_of_its_span(traced: Traced) -> None:
    events = [Publication(Event(type="t", source="/s", id=str(number))) for number in range(2)]
    traced.tracer.send("nats:t", events).sent([Published(), PublishFailed("away", transient=True)])
    [send] = traced.spans("send")
    assert not send.status.is_ok


def test_a_settlement_is_a_client_span_linked_to_its_attempts(traced: Traced) -> None:
    attempts = [traced.tracer.attempt(delivery(), "bill", copy_context()) for _ in range(2)]
    for attempt in attempts:
        attempt.end()
    traced.tracer.settle("nats:order.created", attempts).end()
    [settle] = traced.spans("settle")
    assert settle.kind == SpanKind.CLIENT
    assert len(settle.links) == 2


def test_a_trace_that_is_not_sampled_still_propagates() -> None:
    tracer = Tracer(TracerProvider(sampler=ALWAYS_OFF).get_tracer("test"))
    sending = tracer.send("nats:t", [Publication(Event(type="t", source="/s", id="1"))])
    sending.sent([Published()])
    flags = dict(sending.publications[0].headers)["traceparent"].rpartition("-")[2]
    assert int(flags, 16) & 1 == 0


def test_without_an_sdk_there_is_no_tracer() -> None:
    assert discover() is None


def test_with_an_sdk_there_is_one_and_without_one_the_api_is_not_even_loaded() -> None:
    code = """
import sys
from headrace.observe.tracing import discover
assert discover() is None
assert "opentelemetry.trace" not in sys.modules
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
assert discover() is None
trace.set_tracer_provider(TracerProvider())
assert discover() is not None
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_exception_without_a_text_ends_its_span(traced: Traced) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    traced.tracer.attempt(delivery(), "bill", copy_context()).end(Mute())
    [span] = traced.spans(names.PROCESS)
    [event] = span.events
    assert event.name == "exception"
    assert "RuntimeError" in str((event.attributes or {})[names.EXCEPTION_MESSAGE])
