"""The documented extensions that the runtime reads or writes by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from headrace import App, Event, Retry
from headrace.policy import exponential


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize("expiry", ["2020-01-01T00:00:00Z", datetime(2020, 1, 1, tzinfo=UTC)], ids=["text", "datetime"])
async def test_what_has_expired_is_not_dispatched(expiry: str | datetime) -> None:
    app = App("shop")
    starts: list[str] = []

    @app.on("order.created")
    async def bill(event: Event) -> None:
        starts.append(event.id)

    async with app.testing() as t:
        await t.send("order.created", Event(type="order.created", source="/", id="old", expirytime=expiry))
        await t.send("order.created", Event(type="order.created", source="/", id="new", expirytime=in_seconds(3600)))
        assert t.dead_letters == []
    assert starts == ["new"]


async def test_what_expires_before_its_retry_is_not_tried_again() -> None:
    app = App("shop")
    starts: list[str] = []

    @app.on("order.created", retry=Retry(attempts=5, backoff=exponential(initial=600, factor=1, maximum=600)))
    async def bill(event: Event) -> None:
        starts.append(event.id)
        raise ConnectionError("down")

    async with app.testing() as t:
        await t.send("order.created", {}, id="soon", expirytime=in_seconds(300))
        (letter,) = t.dead_letters
        assert letter.event is not None
        assert letter.event.id == "soon"
    assert starts == ["soon"]


async def test_what_expires_later_is_tried_again_until_then() -> None:
    app = App("shop")
    starts: list[str] = []

    @app.on("order.created", retry=Retry(attempts=20, backoff=exponential(initial=600, factor=1, maximum=600)))
    async def bill(event: Event) -> None:
        starts.append(event.id)
        raise ConnectionError("down")

    async with app.testing() as t:
        await t.send("order.created", {}, expirytime=in_seconds(2000))
        assert len(t.dead_letters) == 1
    assert 2 <= len(starts) < 20


async def test_an_expiry_that_is_no_time_never_comes() -> None:
    app = App("shop")
    starts: list[str] = []

    @app.on("order.created")
    async def bill(event: Event) -> None:
        starts.append(event.id)

    async with app.testing() as t:
        await t.send("order.created", {}, id="1", expirytime="soon")
    assert starts == ["1"]


async def test_a_row_of_derived_events_keeps_its_first_correlation() -> None:
    app = App("shop")

    @app.on("order.created", publishes="invoice.created")
    async def bill(event: Event) -> dict[str, int]:
        return {"n": 1}

    @app.on("invoice.created", publishes="invoice.sent")
    async def send(event: Event) -> dict[str, int]:
        return {"n": 2}

    async with app.testing() as t:
        first = await t.send("order.created", {})
        invoice, sent = t.published
        assert (invoice["correlationid"], invoice["causationid"], invoice["hopcount"]) == (first.id, first.id, 1)
        assert (sent["correlationid"], sent["causationid"], sent["hopcount"]) == (first.id, invoice.id, 2)
        again = await t.send("order.created", {}, correlationid="c-1")
        assert {event["correlationid"] for event in t.published[2:]} == {"c-1"}
        assert t.published[2]["causationid"] == again.id


async def test_a_trace_is_never_overwritten_by_forwarding() -> None:
    app = App("shop")
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    @app.on("order.created", publishes="order.kept")
    async def keep(event: Event) -> Event:
        return event

    @app.on("order.created", publishes="invoice.created")
    async def bill(event: Event) -> dict[str, int]:
        return {"n": 1}

    async with app.testing() as t:
        await t.send("order.created", {}, traceparent=parent, tracestate="a=b")
        assert len(t.published) == 2
        assert {(event["traceparent"], event["tracestate"]) for event in t.published} == {(parent, "a=b")}
