"""The circuit breaker: an outage of a dependency dead-letters nothing, poison does not open it."""

import asyncio
from typing import Any

from headrace import App, Drop, Event, Reject, Retry
from headrace.engine.delivery import Delivery
from headrace.engine.runner import Runner
from headrace.engine.sink import Publication
from headrace.engine.suspicion import Suspicion
from headrace.testing.app import TestApp


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


async def test_what_becomes_ready_behind_an_attempt_from_before_is_the_next_probe() -> None:
    app = App("shop")
    rejecting, log = False, []

    @app.on("order.created", key="customer", retry=Retry(attempts=1))
    async def bill(order: dict) -> None:
        nonlocal rejecting
        log.append(order["id"])
        if order["id"] == "long":
            await asyncio.sleep(10)
            raise Drop("given up")
        if order["id"] == "behind it":
            return
        if rejecting:
            raise Reject("no")
        rejecting = order["id"] == 19
        raise ConnectionError("the bank is down")

    async with app.testing() as t:
        sink = t._broker.sink("order.created")
        for id in ("long", "behind it"):
            await sink.publish([Publication(Event("order.created", "/tests", {"id": id, "customer": "c"}, id=id))])
        await asyncio.sleep(1)
        for number in range(20):
            data = {"id": number, "customer": f"c{number}"}
            await sink.publish([Publication(Event("order.created", "/tests", data, id=str(number)))])
        await t.settled()
        assert log[-1] == "behind it"


class Harmless:
    """Suspects: nothing is recorded of any, or what the test says."""

    def __init__(self, starts: dict[str, int] | None = None) -> None:
        self.starts = starts or {}
        self.answers = asyncio.Event()
        self.answers.set()

    async def recorded(self, handler: str, identities: list[tuple[str, str]]) -> list[int]:
        return [self.starts.get(id, 0) for _, id in identities]

    async def started(self, handler: str, identities: list[tuple[str, str]]) -> list[int]:
        await self.answers.wait()
        return [self.starts.get(id, 0) + 1 for _, id in identities]

    async def finished(self, handler: str, identities: list[tuple[str, str]]) -> None:
        """Nothing to forget."""


def suspecting(t: TestApp, suspects: Harmless, *names: str) -> Runner:
    """Have events with these ids (all, where none is named) be suspects of the one handler."""
    assert t._worker is not None
    assert t._worker.runtime is not None
    runner = t._worker.runtime.handlers[0]
    runner.suspicion = Suspicion(runner, suspects)  # type: ignore[arg-type]
    for subscription in runner.subscriptions:
        take = subscription.take

        async def marked(batch: list[Delivery], take: Any = take) -> None:
            for delivery in batch:
                delivery.redelivered = delivery.event is not None and (not names or delivery.event.id in names)
            await take(batch)

        subscription.take = marked  # type: ignore[method-assign,assignment]
    return runner


async def test_suspects_are_probes_where_nothing_else_is_left() -> None:
    app = App("shop")
    tried, handled = 0, []

    @app.on("order.created", key="customer", retry=Retry(attempts=1), concurrency=4)
    async def bill(order: dict) -> None:
        nonlocal tried
        await asyncio.sleep(0)
        if order["id"] < 20:
            tried += 1
            raise Reject("no") if tried > 20 else ConnectionError("the bank is down")
        handled.append(order["id"])

    async with app.testing() as t:
        suspecting(t, Harmless())
        sink = t._broker.sink("order.created")
        for number in range(40):
            data = {"id": number, "customer": f"c{number % 20}"}
            await sink.publish([Publication(Event("order.created", "/tests", data, id=str(number)))])
        await t.settled()
        assert sorted(handled) == list(range(20, 40))


async def test_a_probe_does_not_take_the_place_of_a_suspect_that_is_to_run_alone() -> None:
    app = App("shop")
    down, handled = True, []

    @app.on("order.created", retry=Retry(attempts=5))
    async def bill(order: dict) -> None:
        await asyncio.sleep(0)
        if down:
            raise ConnectionError("the bank is down")
        handled.append(order["id"])

    @app.on("other")
    async def other(order: dict) -> None:
        await asyncio.sleep(0)
        handled.append("other")

    async with app.testing() as t:
        suspects = Harmless({"poison": 1})
        runner = suspecting(t, suspects, "poison")
        sink = t._broker.sink("order.created")
        for number in range(30):
            await sink.publish([Publication(Event("order.created", "/tests", {"id": number}, id=str(number)))])
        await asyncio.sleep(30)
        assert runner.breaker.open
        # Its start is being recorded while probes go on, and the answer comes at the very moment of a probe.
        suspects.answers.clear()
        await sink.publish([Publication(Event("order.created", "/tests", {"id": "poison"}, id="poison"))])
        await asyncio.sleep(30)
        for _ in range(200):
            loop = asyncio.get_running_loop()
            loop.call_later(5.0, suspects.answers.set)
            loop.call_later(5.0, runner.breaker.joined)
            await asyncio.sleep(7)
            suspects.answers.clear()
            await sink.publish([Publication(Event("order.created", "/tests", {"id": "poison"}, id="poison"))])
        down = False
        suspects.answers.set()
        await t.send("other", {})
        await t.settled()
        assert "other" in handled
        assert {*range(30)} <= {id for id in handled if isinstance(id, int)}
