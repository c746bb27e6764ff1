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


@pytest.mark.parametrize("called", [False, True], ids=["returned", "app.publish"])
@pytest.mark.parametrize("copied", [False, True], ids=["new", "a copy of its cause"])
async def test_a_loop_of_events_with_ids_of_their_own_is_stopped(called: bool, copied: bool) -> None:
    app = App("shop")
    starts = 0

    async def again(event: Event) -> Event | None:
        nonlocal starts
        starts += 1
        assert starts < 100
        new = Event(type="ping", source="/own", id=f"own-{starts}", hopcount=0)
        output = event.replace(id=new.id) if copied else new
        if not called:
            return output
        await app.publish("ping", output)
        return None

    app.on("ping", publishes=None if called else "ping")(again)

    async with app.testing() as t:
        first = await t.send("ping", {})
        (letter,) = t.dead_letters
        assert "loop" in letter.reason
        assert [event["hopcount"] for event in t.published] == list(range(1, 65))
        assert {event["correlationid"] for event in t.published} == {first.id}
        assert [event["causationid"] for event in t.published[:2]] == [first.id, "own-1"]


async def test_the_event_at_hand_is_passed_on_as_it_is() -> None:
    app = App("shop")

    @app.on("order.created", publishes="order.copied")
    async def copy(event: Event) -> Event:
        return event

    async with app.testing() as t:
        sent = await t.send("order.created", {"n": 1})
        assert t.published == [sent]


async def test_a_hop_count_that_is_none_does_not_keep_an_event_from_its_handler() -> None:
    app = App("shop")

    @app.on("order.created", publishes="invoice.created")
    async def bill(event: Event) -> dict[str, int]:
        return {"n": 1}

    async with app.testing() as t:
        await t.send("order.created", {}, hopcount="many")
        (invoice,) = t.published
        assert invoice["hopcount"] == 1
