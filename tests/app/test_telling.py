"""What logs and figures say of events that failed, and of their replays."""

import asyncio
import logging

from headrace import App, Event, Reject, Retry
from headrace.engine.replays import replay_letter

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def test_the_lines_of_a_failed_event_name_it_in_fields(caplog) -> None:
    caplog.set_level(logging.INFO, logger="headrace.engine")
    app = App("shop", store="memory://")

    @app.on("order.created", retry=Retry(attempts=2))
    async def bill(order: dict) -> None:
        raise ValueError("no")

    event = Event(type="created", source="/till", id="o-1", data={}, traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
    async with app.testing() as t:
        await t.send("order.created", event)
    lines = [record for record in caplog.records if record.name == "headrace.engine"]
    assert [record.levelname for record in lines] == ["INFO", "ERROR"]
    for record in lines:
        facts = {name: vars(record)[name] for name in ("handler", "event_id", "event_source", "event_type", "trace_id")}
        assert facts == {
            "handler": "bill",
            "event_id": "o-1",
            "event_source": "/till",
            "event_type": "created",
            "trace_id": TRACE,
        }


async def test_replays_are_counted_by_how_they_end() -> None:
    app = App("shop", broker="memory://", store="memory://")

    @app.on("order.created")
    async def bill(order: dict) -> None:
        if order["n"] >= strict:
            raise Reject("no")

    strict = 0
    async with app.running() as worker:
        letters = worker.dead_letters
        assert letters is not None
        for number in range(3):
            await app.publish("order.created", {"n": number})
        while len(found := [stored async for stored in letters.scan("shop")]) < 3:
            await asyncio.sleep(0.01)
        strict = 2
        for stored in found:
            assert await replay_letter(letters, worker.broker, stored, by="ann") == ""
        (runner,) = worker.runtime.handlers
        while sum(runner.measures.replayed.values()) < 3:
            await asyncio.sleep(0.01)
        assert {how: count for how, count in runner.measures.replayed.items() if count} == {"ok": 2, "dead": 1}
