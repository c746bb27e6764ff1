"""``filters=`` of a handler: functions of the app's own, and what is refused when the app starts."""

import pytest

from headrace import App, Event
from headrace.errors import InvalidFilter


async def test_an_expression_calls_the_functions_of_its_app_by_their_number_of_arguments() -> None:
    app = App("shop")

    @app.function("LARGE")
    def large(amount: int) -> bool:
        return amount > 10

    @app.function("LARGE")
    def larger(amount: int, than: int) -> bool:
        return amount > than

    received: list[str] = []

    @app.on("order.created", filters=[{"sql": "LARGE(amount) AND NOT LARGE(amount, 100)"}])
    async def bill(event: Event) -> None:
        received.append(event.id)

    async with app.testing() as t:
        for amount in (5, 50, 500):
            await t.send("order.created", {}, id=str(amount), amount=amount)
    assert received == ["50"]


def test_a_function_that_the_app_does_not_have_is_refused_with_the_handlers_name() -> None:
    app = App("shop")

    @app.on("order.created", filters=[{"sql": "LARGE(amount)"}])
    async def bill(event: Event) -> None: ...

    with pytest.raises(InvalidFilter, match=r"'bill'.*LARGE"):
        app.compile()


def test_an_expression_that_does_not_parse_is_refused_with_the_place_marked() -> None:
    app = App("shop")

    @app.on("order.created", filters=[{"sql": "type LIKE 'order.%' AND"}])
    async def bill(event: Event) -> None: ...

    with pytest.raises(InvalidFilter, match=r"(?s)'bill'.*type LIKE 'order\.%' AND\n +\^"):
        app.compile()


async def test_a_loop_of_handlers_is_stopped_by_the_hop_count() -> None:
    app = App("shop")

    @app.on("ping", publishes="ping")
    async def again(event: Event) -> dict[str, int]:
        return {"n": 1}

    async with app.testing() as t:
        await t.send("ping", {})
        (letter,) = t.dead_letters
        assert "loop" in letter.reason
        assert [event["hopcount"] for event in t.published] == list(range(1, 65))


async def test_a_hop_count_that_is_none_does_not_keep_an_event_from_its_handler() -> None:
    app = App("shop")

    @app.on("order.created", publishes="invoice.created")
    async def bill(event: Event) -> dict[str, int]:
        return {"n": 1}

    async with app.testing() as t:
        await t.send("order.created", {}, hopcount="many")
        (invoice,) = t.published
        assert invoice["hopcount"] == 1
