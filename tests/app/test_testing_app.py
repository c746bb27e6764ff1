"""The pipeline as a user's test sees it: ``app.testing()`` with virtual time and injected faults."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar

import msgspec
import pytest

from headrace import App, Delivery, Drop, Event, Reject, Retry, RetryAfter, Router, exponential
from headrace.errors import ConfigurationError


class Order(msgspec.Struct):
    id: str
    customer: str
    amount: float


ORDER = {"id": "o1", "customer": "ada", "amount": 12.5}


async def test_a_returned_value_is_published_as_an_event_of_the_channels_type() -> None:
    app = App("shop")

    @app.on("order.created", key="customer", publishes="invoice.created")
    async def bill(order: Order) -> dict[str, object]:
        return {"order": order.id, "total": order.amount}

    async with app.testing() as t:
        sent = await t.send("order.created", ORDER)
        (invoice,) = t.published
        assert invoice.type == "invoice.created"
        assert invoice.source == "/shop/bill"
        assert invoice.data == {"order": "o1", "total": 12.5}
        assert invoice["causationid"] == sent.id
        assert t.dead_letters == []


async def test_a_rejected_event_is_dead_lettered_at_once_with_its_reason() -> None:
    app = App("shop")
    starts = 0

    @app.on("order.created")
    async def bill(order: Order) -> None:
        nonlocal starts
        starts += 1
        raise Reject("negative amount")

    async with app.testing() as t:
        await t.send("order.created", ORDER)
        (letter,) = t.dead_letters
        assert letter.handler == "bill"
        assert "negative amount" in letter.reason
        assert letter.event is not None
        assert letter.event.data == ORDER
        assert starts == letter.attempts == 1


async def test_the_eighth_failure_dead_letters_after_some_three_virtual_minutes() -> None:
    app = App("shop")
    starts: list[float] = []

    @app.on("order.created")
    async def bill(order: Order) -> None:
        starts.append(asyncio.get_running_loop().time())
        raise ValueError("no")

    begun = time.monotonic()
    async with app.testing() as t:
        await t.send("order.created", ORDER)
        assert len(starts) == 8
        assert 80 < starts[-1] - starts[0] < 190
        (letter,) = t.dead_letters
        assert letter.attempts == 8
        assert letter.exception == "ValueError"
        assert "raise ValueError" in letter.traceback
    assert time.monotonic() - begun < 30


async def test_a_held_lane_waits_with_everything_behind_it_and_other_lanes_flow() -> None:
    app = App("shop")
    handled: list[str] = []
    failures = 3

    @app.on("order.created", key="customer", retry=Retry(backoff=exponential(initial=10, factor=1)))
    async def bill(order: Order) -> None:
        nonlocal failures
        if order.id == "a1" and failures:
            failures -= 1
            raise ConnectionError("down")
        handled.append(order.id)

    async with app.testing() as t:
        first = asyncio.create_task(t.send("order.created", {"id": "a1", "customer": "a", "amount": 1}))
        await asyncio.sleep(0)
        others = [
            asyncio.create_task(t.send("order.created", {"id": name, "customer": name[0], "amount": 1}))
            for name in ("a2", "b1", "b2", "a3")
        ]
        await asyncio.gather(first, *others)
    assert handled == ["b1", "b2", "a1", "a2", "a3"]


async def test_an_unkeyed_retry_lets_others_pass() -> None:
    app = App("shop")
    handled: list[str] = []
    failed = False

    @app.on("order.created", concurrency=1)
    async def bill(order: Order) -> None:
        nonlocal failed
        if order.id == "1" and not failed:
            failed = True
            raise ConnectionError("down")
        handled.append(order.id)

    async with app.testing() as t:
        await asyncio.gather(*(t.send("order.created", {**ORDER, "id": name}) for name in "123"))
    assert handled == ["2", "3", "1"]


async def test_retry_after_wins_over_the_backoff() -> None:
    app = App("shop")
    starts: list[float] = []

    @app.on("order.created")
    async def bill(order: Order) -> None:
        starts.append(asyncio.get_running_loop().time())
        if len(starts) == 1:
            raise RetryAfter(100)

    async with app.testing() as t:
        await t.send("order.created", ORDER)
    assert 99.9 < starts[1] - starts[0] < 101


async def test_a_dropped_event_is_counted_and_leaves_no_dead_letter() -> None:
    app = App("shop")

    @app.on("order.created")
    async def bill(order: Order) -> None:
        raise Drop("not ours")

    async with app.testing() as t:
        await t.send("order.created", ORDER)
        assert t.dead_letters == []


async def test_an_exception_outside_on_is_dead_lettered_at_once() -> None:
    app = App("shop")

    @app.on("order.created", retry=Retry(on=(ConnectionError,)))
    async def bill(order: Order) -> None:
        raise KeyError("x")

    async with app.testing() as t:
        await t.send("order.created", ORDER)
        assert t.dead_letters[0].attempts == 1


async def test_a_handler_that_never_returns_times_out_and_is_dead_lettered() -> None:
    app = App("shop")

    @app.on("order.created", timeout=5, retry=Retry(attempts=2))
    async def bill(order: Order) -> None:
        await asyncio.Event().wait()

    async with app.testing() as t:
        await t.send("order.created", ORDER)
        (letter,) = t.dead_letters
        assert letter.exception == "TimeoutError"
        assert letter.attempts == 2


async def test_a_deadline_cancels_inside_the_handler_only_and_the_worker_goes_on() -> None:
    app = App("shop")
    cleaned: list[str] = []

    @app.on("order.created", timeout=5, concurrency=1, retry=Retry(attempts=1))
    async def bill(order: Order) -> None:
        if order.id == "slow":
            try:
                await asyncio.sleep(60)
            finally:
                cleaned.append("slow")
        cleaned.append(order.id)

    async with app.testing() as t:
        await t.send("order.created", {**ORDER, "id": "slow"})
        await t.send("order.created", {**ORDER, "id": "next"})
    assert cleaned == ["slow", "next"]


async def test_wrong_data_and_a_missing_key_are_dead_lettered_and_neighbours_flow() -> None:
    app = App("shop")
    handled: list[str] = []

    @app.on("order.created", key="customer")
    async def bill(order: dict) -> None:  # type: ignore[type-arg]
        handled.append(order["id"])

    async with app.testing() as t:
        await t.send("order.created", [1, 2])
        await t.send("order.created", {"id": "keyless"})
        await t.send("order.created", {"id": "null", "customer": None})
        await t.send("order.created", ORDER)
        assert [letter.attempts for letter in t.dead_letters] == [0, 0, 0]
        assert "customer" in t.dead_letters[1].reason
    assert handled == ["o1"]


async def test_the_same_event_is_handled_once() -> None:
    app = App("shop")
    handled = 0

    @app.on("order.created")
    async def bill(order: Order) -> None:
        nonlocal handled
        handled += 1

    event = Event("order.created", "/test", ORDER, id="1")
    async with app.testing() as t:
        await t.send("order.created", event)
        await t.send("order.created", event)
        await asyncio.gather(t.send("order.created", event), t.send("order.created", event))
    assert handled == 1


async def test_a_list_and_an_async_iterator_publish_several_events() -> None:
    app = App("shop")

    @app.on("a", publishes="out")
    async def several(data: dict) -> list[dict]:  # type: ignore[type-arg]
        return [{"n": 1}, {"n": 2}]

    @app.on("b", publishes="out")
    async def iterate(data: dict) -> AsyncIterator[dict]:  # type: ignore[type-arg]
        for number in range(3):
            yield {"n": number}

    @app.on("c", publishes="out")
    def plain(data: dict) -> dict:  # type: ignore[type-arg]
        return data

    async with app.testing() as t:
        await t.send("a", {})
        await t.send("b", {})
        await t.send("c", {"n": 9})
        assert [event.data["n"] for event in t.published] == [1, 2, 0, 1, 2, 9]
        assert len({event.id for event in t.published}) == 6


async def test_a_repeated_attempt_publishes_the_same_ids() -> None:
    app = App("shop")

    @app.on("a", retry=Retry(attempts=3))
    async def forward(data: dict) -> None:  # type: ignore[type-arg]
        await app.publish("out", data)
        await app.publish("out", Event("mine", "/me", data))
        if len(t.published) < 4:
            raise ConnectionError

    async with app.testing() as t:
        await t.send("a", {})
        ids = [event.id for event in t.published]
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]


async def test_an_unconfirmed_output_is_repeated_and_the_handler_is_not() -> None:
    app = App("shop")
    starts = 0

    @app.on("a", publishes="out")
    async def forward(data: dict) -> dict:  # type: ignore[type-arg]
        nonlocal starts
        starts += 1
        return data

    async with app.testing() as t:
        t.faults.publish("out", times=3)
        await t.send("a", {})
        assert len(t.published) == 1
    assert starts == 1


async def test_a_store_that_is_away_is_waited_for() -> None:
    app = App("shop")
    starts = 0

    @app.on("a")
    async def count(data: dict) -> None:  # type: ignore[type-arg]
        nonlocal starts
        starts += 1

    async with app.testing() as t:
        t.faults.store(times=5)
        await t.send("a", {})
    assert starts == 1


async def test_an_injected_failure_is_retried() -> None:
    app = App("shop")
    attempts: list[int] = []

    @app.on("a")
    async def count(data: dict, delivery: Delivery) -> None:  # type: ignore[type-arg]
        attempts.append(delivery.attempt)

    async with app.testing() as t:
        t.faults.handler("count", ConnectionError("down"), times=2)
        await t.send("a", {})
    assert attempts == [3]


async def test_no_context_variable_leaks_from_one_event_to_another() -> None:
    app = App("shop")
    variable: ContextVar[str] = ContextVar("variable", default="clean")
    seen: list[str] = []

    @app.on("a", concurrency=1)
    async def leak(data: dict) -> None:  # type: ignore[type-arg]
        seen.append(variable.get())
        variable.set("dirty")
        await asyncio.sleep(0)
        assert variable.get() == "dirty"

    async with app.testing() as t:
        await t.send("a", {})
        await t.send("a", {})
    assert seen == ["clean", "clean"]


async def test_routers_are_included() -> None:
    router = Router()
    seen: list[object] = []

    @router.on("a")
    async def handle(event: Event) -> None:
        seen.append(event.data)

    app = App("shop")
    app.include_router(router)
    async with app.testing() as t:
        await t.send("a", {"n": 1})
    assert seen == [{"n": 1}]


async def test_an_expired_event_is_not_handled() -> None:
    app = App("shop")
    seen: list[str] = []

    @app.on("a")
    async def handle(event: Event) -> None:
        seen.append(event.id)

    async with app.testing() as t:
        await t.send("a", {}, expirytime="2020-01-01T00:00:00Z")
    assert seen == []


async def test_on_exhausted_stop_ends_the_app_with_code_1() -> None:
    app = App("shop")

    @app.on("a", retry=Retry(attempts=1, on_exhausted="stop"))
    async def handle(event: Event) -> None:
        raise ValueError

    async with app.testing() as t:
        await t.send("a", {})
        assert t.exit_code == 1
        assert t.dead_letters == []


def test_a_signature_that_cannot_be_resolved_names_handler_and_parameter() -> None:
    app = App("shop")

    @app.on("a")
    async def handle(first: dict, second: dict) -> None: ...  # type: ignore[type-arg]

    with pytest.raises(ConfigurationError, match=r"'handle'.*'second'"):
        app.compile()


def test_names_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="two__parts"):
        App("two__parts")


async def test_a_dead_letter_frees_the_lane_of_a_handler_without_a_ledger_too() -> None:
    app = App("shop")
    seen: list[float] = []

    @app.on("order.created", key="customer", idempotent=False, retry=Retry(attempts=2))
    async def bill(order: Order) -> None:
        seen.append(order.amount)
        if order.amount < 0:
            raise ValueError("negative amount")

    async with app.testing() as t:
        await t.send("order.created", {**ORDER, "amount": -1.0})
        await t.send("order.created", ORDER)
        assert seen == [-1.0, -1.0, 12.5]
        assert len(t.dead_letters) == 1
