"""Whole apps on a real broker: the engine above the source, sinks and dead letters."""

import asyncio
import time
from collections import defaultdict
from typing import Any

import msgspec
import pytest

from headrace import App, Delivery, Event, Reject, Retry
from headrace.engine.replays import replay_letter
from headrace.errors import RefusedError
from headrace.kafka import Topic
from headrace.policy import exponential
from tests.kafka.harness import Harness, until

FAST = exponential(initial=0.02, maximum=0.05)


class Order(msgspec.Struct):
    id: str
    customer: str
    amount: float


def order(number: int, customer: str = "ann", amount: float = 1.0) -> dict[str, Any]:
    return {"id": str(number), "customer": customer, "amount": amount}


async def test_orders_become_invoices_and_a_rejected_one_waits_for_its_replay(at: Harness) -> None:
    app = App(at.app, broker=at.url, store="memory://")
    invoices: list[dict[str, Any]] = []
    strict = True

    @app.on("order.created", key="customer", publishes="invoice.created")
    async def bill(order: Order) -> dict[str, Any]:
        if order.amount < 0 and strict:
            raise Reject("negative amount")
        return {"order": order.id, "total": order.amount}

    @app.on("invoice.created")
    async def mail(event: Event) -> None:
        invoices.append({"source": event.source, **event.data})

    async with app.running() as worker:
        for number in range(20):
            await app.publish("order.created", order(number, amount=-1.0 if number == 7 else 1.0), key="ann")
        await until(lambda: len(invoices) == 19)
        letters = worker.dead_letters
        assert letters is not None
        found = [stored async for stored in letters.scan(at.app)]
        assert [stored.letter.reason for stored in found] == ["rejected: negative amount"]
        assert found[0].letter.origin["topic"] == "order.created"
        strict = False
        assert await replay_letter(letters, worker.broker, found[0], by="test") == ""
        await until(lambda: len(invoices) == 20)
        stored = await letters.get(found[0].letter.id)
        assert stored is not None
        assert stored.letter.state == "replayed"
    assert {invoice["source"] for invoice in invoices} == {f"/{at.app}/bill"}
    assert {invoice["order"] for invoice in invoices} == {str(number) for number in range(20)}


async def test_a_key_that_fails_holds_its_own_lane_only_and_keeps_its_order(at: Harness) -> None:
    await at.make_topic()
    app = App(at.app, broker=at.url, store="memory://")
    handled: dict[str, list[int]] = defaultdict(list)
    failures = 3

    @app.on(at.topic, retry=Retry(attempts=8, backoff=FAST))
    async def bill(event: Event) -> None:
        nonlocal failures
        key, number = event.data
        if key == "k3" and failures:
            failures -= 1
            raise ValueError("not yet")
        handled[key].append(number)

    for number in range(200):
        key = f"k{number % 8}"
        at.write(b'["%s", %d]' % (key.encode(), number), key=key)
    at.delivered()
    async with app.running():
        await until(lambda: sum(map(len, handled.values())) == 200)
    assert all(numbers == sorted(numbers) for numbers in handled.values())
    assert (await at.committed())[0][0] == 200


async def test_more_concurrency_than_partitions(at: Harness) -> None:
    await at.make_topic()
    at.fill(640, keys=64)
    app = App(at.app, broker=at.url, store="memory://", concurrency=64)
    running = most = done = 0

    @app.on(at.topic)
    async def bill(event: Event) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        done += 1

    async with app.running():
        await until(lambda: done == 640)
    assert most == 64


async def test_an_unkeyed_retry_is_passed_by_others(at: Harness) -> None:
    await at.make_topic()
    at.fill(50)
    app = App(at.app, broker=at.url, store="memory://")
    seen: list[int] = []

    @app.on(at.topic, retry=Retry(backoff=FAST))
    async def bill(event: Event) -> None:
        if event.data == 0 and len(seen) < 49:
            raise ValueError("later")
        seen.append(event.data)

    async with app.running():
        await until(lambda: len(seen) == 50)
    assert seen[-1] == 0
    assert (await at.committed())[0][0] == 50


async def test_a_record_that_no_handler_can_take_is_dead_lettered_as_it_came(at: Harness) -> None:
    await at.make_topic()
    at.write(b"\xff{", key="k", headers={"content-type": "application/cloudevents+json", "x": b"\x00\xff"})
    at.write(None, key="k")
    at.delivered()
    app = App(at.app, broker=at.url, store="memory://")

    @app.on(at.topic)
    async def bill(order: Order) -> None: ...

    async with app.running() as worker:
        letters = worker.dead_letters
        assert letters is not None

        async def both() -> bool:
            return (await letters.counts(at.app)).get("bill", (0, 0))[0] == 2

        await until(both)
        broken, absent = [stored.letter async for stored in letters.scan(at.app)]
        if broken.body is None:
            broken, absent = absent, broken
    assert broken.body == b"\xff{"
    assert ("x", b"\x00\xff") in broken.headers
    assert absent.body is None
    assert (await at.committed())[0][0] == 2


async def test_a_drain_commits_what_was_finished_and_leaves_the_rest(at: Harness) -> None:
    await at.make_topic()
    at.fill(100, keys=10)
    started, release = asyncio.Event(), asyncio.Event()
    seen: list[int] = []
    app = App(at.app, broker=at.url, store="memory://", concurrency=10)

    @app.on(at.topic)
    async def bill(event: Event) -> None:
        seen.append(event.data)
        if len(seen) == 10:
            started.set()
        await release.wait()

    async with app.running():
        await started.wait()
        asyncio.get_running_loop().call_later(0.1, release.set)
    first = list(seen)
    assert len(first) < 100
    seen.clear()
    async with app.running():
        await until(lambda: len(seen) == 100 - len(first))
    assert sorted(first + seen) == list(range(100))


@pytest.mark.parametrize("declared", [False, True], ids=["channel", "topic"])
async def test_a_renamed_handler_is_refused_with_both_remedies(at: Harness, declared: bool) -> None:
    await at.make_topic()
    at.fill(5)
    done = 0

    def make(name: str) -> App:
        app = App(at.app, broker=at.url, store="memory://")

        @app.on(Topic(at.topic) if declared else at.topic, name=name)
        async def handler(event: Event) -> None:
            nonlocal done
            done += 1

        return app

    async with make("old").running():
        await until(lambda: done == 5)
    with pytest.raises(RefusedError, match=r"name='old'.*delete"):
        async with make("new").running():
            raise AssertionError("it must not run")


async def test_a_handler_slower_than_the_poll_interval_stays_in_the_group(at: Harness) -> None:
    await at.make_topic()
    at.fill(2)
    url = f"{at.url}?max.poll.interval.ms=2000&session.timeout.ms=1500&heartbeat.interval.ms=300"
    app = App(at.app, broker=url, store="memory://")
    seen: list[float] = []

    @app.on(at.topic)
    async def bill(event: Event) -> None:
        await asyncio.sleep(4)
        seen.append(time.monotonic())

    async with app.running() as worker:
        await until(lambda: len(seen) == 2)
        assert worker.runtime is not None
        (source,) = [s.source for s in worker.runtime.handlers[0].subscriptions if s.source.name.endswith(at.topic)]
        assert source.rebalances == 1  # type: ignore[attr-defined]


async def test_a_record_whose_key_is_no_text_is_dead_lettered_and_replayed_in_its_lane(at: Harness) -> None:
    app = App(at.app, broker=at.url, store="memory://")
    strict = True
    keys: list[Any] = []

    @app.on(Topic(await at.make_topic()), retry=Retry(attempts=1))
    async def bill(delivery: Delivery) -> None:
        keys.append(delivery.metadata["record_key"])
        if strict:
            raise ValueError("no")

    async with app.running() as worker:
        at.write(b"{}", key=b"\x00\x00\x00\xc8")
        letters = worker.dead_letters
        assert letters is not None
        found: list[Any] = []
        while not found:
            found = [stored async for stored in letters.scan(at.app)]
            await asyncio.sleep(0.05)
        assert found[0].letter.origin["record_key"] == "\0\0\0\\xc8"
        assert str(found[0].letter.key).endswith("\0\0\0\\xc8")
        strict = False
        assert await replay_letter(letters, worker.broker, found[0], by="test") == ""
        await until(lambda: len(keys) == 2)
    assert keys == ["\0\0\0\\xc8"] * 2
