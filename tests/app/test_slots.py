"""The app's concurrency: a handler that waits for a slot gets one, whatever the others do."""

import asyncio

from headrace import App, Event
from headrace.engine.sink import Publication
from headrace.testing.app import TestApp


async def fill(t: TestApp, channel: str, count: int) -> None:
    await t._broker.sink(channel).publish(
        [Publication(Event(channel, "/tests", {"id": number}, id=str(number))) for number in range(count)]
    )


async def test_a_slot_goes_on_to_the_next_where_the_handler_that_got_it_never_waits() -> None:
    app = App("shop", concurrency=1)
    gate, done = asyncio.Event(), []

    @app.on("slow")
    async def slow(order: dict) -> None:
        await gate.wait()
        done.append("slow")

    @app.on("quick")
    async def quick(order: dict) -> None:
        done.append("quick")

    @app.on("other")
    async def other(order: dict) -> None:
        await asyncio.sleep(0)
        done.append("other")

    async with app.testing() as t:
        for channel in ("slow", "quick", "other"):
            await fill(t, channel, 1)
            await asyncio.sleep(1)
        assert not done
        gate.set()
        await asyncio.sleep(1)
        assert done == ["slow", "quick", "other"]
        assert t._worker is not None
        assert t._worker.runtime is not None
        assert t._worker.runtime.slots.used == 0


async def test_a_handler_with_a_backlog_does_not_keep_the_others_from_their_slots() -> None:
    app = App("shop", concurrency=4)
    handled = {"busy": 0, "rare": 0}

    @app.on("busy")
    async def busy(order: dict) -> None:
        await asyncio.sleep(0.01)
        handled["busy"] += 1

    @app.on("rare")
    async def rare(order: dict) -> None:
        await asyncio.sleep(0.01)
        handled["rare"] += 1

    async with app.testing() as t:
        await fill(t, "busy", 1000)
        await asyncio.sleep(0.1)
        await fill(t, "rare", 5)
        await asyncio.sleep(0.2)
        assert handled["rare"] == 5
        assert handled["busy"] < 200
        await t.settled()
        assert handled["busy"] == 1000


async def test_plain_functions_take_their_turns_too() -> None:
    app = App("shop", concurrency=1)
    done: list[str] = []

    @app.on("one")
    def one(order: dict) -> None:
        done.append("one")

    @app.on("two")
    def two(order: dict) -> None:
        done.append("two")

    async with app.testing() as t:
        await fill(t, "one", 20)
        await fill(t, "two", 20)
        await t.settled()
        assert sorted(done) == ["one"] * 20 + ["two"] * 20
        assert "two" in done[:5]
