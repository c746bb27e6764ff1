"""The circuit breaker: an outage of a dependency dead-letters nothing, poison does not open it."""

import asyncio

from headrace import App, Event, Reject, Retry
from headrace.engine.sink import Publication


async def test_an_hour_of_outage_dead_letters_nothing_and_the_flow_goes_on_by_itself() -> None:
    app = App("shop")
    down, attempts, handled = True, 0, []

    @app.on("order.created", key="customer", retry=Retry(attempts=8))
    async def bill(order: dict) -> None:
        nonlocal attempts
        attempts += 1
        if down:
            raise ConnectionError("the bank is down")
        handled.append(order["id"])

    async with app.testing() as t:
        loop = asyncio.get_running_loop()
        sends = [
            asyncio.ensure_future(t.send("order.created", {"id": number, "customer": f"c{number % 3}"}))
            for number in range(30)
        ]
        await asyncio.sleep(3600)
        assert not t.dead_letters
        assert 700 < attempts < 760, "twenty failures, then a probe every five seconds"
        down = False
        recovered = loop.time()
        await asyncio.gather(*sends)
        assert loop.time() - recovered <= 5.0
        assert sorted(handled) == list(range(30))
        for customer in range(3):
            mine = [number for number in handled if number % 3 == customer]
            assert mine == sorted(mine)
        assert not t.dead_letters


async def test_probes_take_a_different_event_each_time_so_one_poison_event_does_not_keep_it_open() -> None:
    app = App("shop")
    down, tried = True, []

    @app.on("order.created", key="customer", retry=Retry(attempts=3))
    async def bill(order: dict) -> None:
        tried.append(order["id"])
        if down or order["id"] == 0:
            raise ConnectionError("the bank is down")

    async with app.testing() as t:
        sends = [
            asyncio.ensure_future(t.send("order.created", {"id": number, "customer": f"c{number}"}))
            for number in range(24)
        ]
        await asyncio.sleep(60)
        probes = tried[24:]
        assert len(set(probes[:10])) == 10
        down = False
        await asyncio.gather(*sends)
        assert [letter.event["data"]["id"] if isinstance(letter.event, dict) else 0 for letter in t.dead_letters] == [0]


async def test_failures_of_two_events_only_are_poison_and_never_open_it() -> None:
    app = App("shop")

    @app.on("order.created", key="customer", retry=Retry(attempts=15))
    async def bill(order: dict) -> None:
        raise ConnectionError("always")

    async with app.testing() as t:
        await asyncio.gather(*(t.send("order.created", {"id": n, "customer": f"c{n}"}) for n in range(2)))
        assert len(t.dead_letters) == 2


async def test_rejected_events_never_open_it() -> None:
    app = App("shop")

    @app.on("order.created", key="customer")
    async def bill(order: dict) -> None:
        raise Reject("no")

    async with app.testing() as t:
        await asyncio.gather(*(t.send("order.created", {"id": n, "customer": f"c{n}"}) for n in range(40)))
        assert len(t.dead_letters) == 40


async def test_what_its_source_has_lost_does_not_stand_before_the_probe() -> None:
    """A stopped owner that continues: its attempts time out, the breaker opens, and then everything it holds is voided."""
    app = App("shop")
    down, handled = True, []

    @app.on("order.created", key="customer", retry=Retry(attempts=3))
    async def bill(order: dict) -> None:
        if down:
            raise ConnectionError("the bank is down")
        handled.append(order["id"])

    async with app.testing() as t:
        for number in range(60):
            await t._broker.sink("order.created").publish([_order(number)])
        await asyncio.sleep(60)
        assert t._worker is not None
        assert t._worker.runtime is not None
        (runner,) = t._worker.runtime.handlers
        assert runner.breaker.open
        for subscription in runner.subscriptions:
            for delivery in list(subscription.held):
                delivery.void("another process owns this handler's consumer now")
        down = False
        await asyncio.sleep(10)
        await t.send("order.created", {"id": 100, "customer": "c0"})
        assert handled == [100]
        assert not runner.breaker.open
        assert not runner.lanes


def _order(number: int) -> Publication:
    data = {"id": number, "customer": f"c{number % 3}"}
    return Publication(Event("order.created", "/tests", data, id=str(number)))
