"""An app of an application that configured an SDK: one trace from the publish to what the handler does and publishes."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from headrace import App, Event, Retry
from headrace.observe import span_names as names
from headrace.policy import exponential
from tests.observe.test_tracing import Traced


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Traced:
    made = Traced()
    monkeypatch.setattr("headrace.worker.discover", lambda: made.tracer)
    return made


async def until(traced: Traced, name: str, count: int) -> list[ReadableSpan]:
    async with asyncio.timeout(20):
        while len(traced.spans(name)) < count:
            await asyncio.sleep(0.01)
    return traced.spans(name)


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.trace_id


async def test_publish_attempt_and_settlement_are_one_trace(traced: Traced) -> None:
    app = App("shop", broker="memory://")
    inside: list[int] = []

    @app.on("order.created", key="customer", publishes="order.paid")
    async def bill(order: dict) -> dict:
        inside.append(trace.get_current_span().get_span_context().span_id)
        await app.publish("order.noted", {"order": order["id"]})
        return {"order": order["id"]}

    async with app.running():
        await app.publish("order.created", {"id": "o1", "customer": "ada"})
        [attempt] = await until(traced, "process", 1)
        sends = await until(traced, "send", 3)
        [settling] = await until(traced, "settle", 1)
    assert attempt.context is not None
    assert inside == [attempt.context.span_id], "the span of the attempt is current in the handler"
    assert attempt.kind is SpanKind.CONSUMER
    assert attempt.attributes is not None
    assert attempt.attributes[names.HANDLER] == "bill"
    created = next(span for span in traced.spans("create") if "order.created" in span.name)
    assert trace_of(attempt) == trace_of(created)
    by_name = {span.name: span for span in sends}
    for name in ("send order.noted", "send order.paid"):
        parent = by_name[name].parent
        assert parent is not None
        assert parent.span_id == attempt.context.span_id
    assert trace_of(settling) == trace_of(attempt)
    assert settling.kind is SpanKind.CLIENT


async def test_each_attempt_is_a_span_and_a_failed_one_says_why(traced: Traced) -> None:
    app = App("shop", broker="memory://")
    attempts = 0

    @app.on("order.created", retry=Retry(attempts=2, backoff=exponential(initial=0.01)))
    def bill(event: Event) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ValueError("not yet")

    async with app.running():
        await app.publish("order.created", {"id": "o1"})
        first, second = await until(traced, "process", 2)
        await until(traced, "settle", 1)
    assert first.status.status_code is StatusCode.ERROR
    assert second.status.status_code is not StatusCode.ERROR
    assert trace_of(first) == trace_of(second)


async def test_without_an_sdk_nothing_is_traced() -> None:
    app = App("shop", broker="memory://")

    @app.on("order.created")
    async def bill(event: Event) -> None: ...

    async with app.running() as worker:
        assert worker.runtime is not None
        assert worker.runtime.tracer is None
