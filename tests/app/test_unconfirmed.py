"""Outputs that a sink does not take yet keep nothing else."""

import asyncio
from typing import Any

from headrace import App, Event
from headrace.engine.sink import Publication
from headrace.errors import PublishFailed


async def test_outputs_that_are_refused_for_now_do_not_keep_the_others() -> None:
    app = App("shop")

    @app.on("order.created", publishes="invoice.created", concurrency=64)
    async def bill(order: dict) -> dict:
        return order

    async with app.testing() as t:
        refusing, asked, out = True, 0, []

        def taken(channel: str, event: Event) -> Any:
            nonlocal asked
            if channel != "invoice.created":
                return None
            if refusing and event.data["id"] < 10:
                asked += 1
                return PublishFailed("409: conflict", transient=True)
            out.append(event.data["id"])
            return None

        t._broker.on_publish = taken
        sink = t._broker.sink("order.created")
        for number in range(50):
            await sink.publish([Publication(Event("order.created", "/tests", {"id": number}, id=str(number)))])
            await asyncio.sleep(0.05)
        assert sorted(out) == list(range(10, 50))
        assert t._worker is not None
        assert t._worker.runtime is not None
        runner = t._worker.runtime.handlers[0]
        assert "409" in runner.health_detail()
        await asyncio.sleep(100)
        assert asked < 10 * 60, "each is asked about every two seconds"
        refusing = False
        await t.settled()
        assert sorted(out) == list(range(50))
        assert not runner.health_detail()


async def test_a_defect_while_a_sink_is_asked_again_ends_the_app_and_not_its_drain() -> None:
    app = App("shop")

    @app.on("order.created", publishes="invoice.created")
    async def bill(order: dict) -> dict:
        return order

    async with app.testing() as t:
        asked = 0

        def taken(channel: str, event: Event) -> Any:
            nonlocal asked
            if channel != "invoice.created":
                return None
            asked += 1
            if asked > 1:
                raise ValueError("a defect")
            return PublishFailed("409: conflict", transient=True)

        t._broker.on_publish = taken
        await t._broker.sink("order.created").publish([Publication(Event("order.created", "/tests", {}, id="1"))])
        await asyncio.sleep(1)
        assert t._worker is not None
        assert t._worker.runtime is not None
        assert isinstance(t._worker.runtime.failure, ValueError)
        async with asyncio.timeout(60):
            await t._worker.runtime.handlers[0].outcomes.join()
    assert t.exit_code == 1
