"""Exceptions whose text no store, wire or log could take: their events are dead letters like any other."""

import asyncio

import pytest

from headrace import App, Reject, Retry, exponential
from tests.stores.test_postgres import a_database


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path) -> str:
    if request.param == "postgresql":
        return a_database(request.getfixturevalue("postgres_server"))
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/shop.db"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("caf\udce9.txt"), r"ValueError: caf\udce9.txt"),
        (ValueError("a\0b"), "ValueError: a\0b"),
        (Reject("\ud800"), r"rejected: \ud800"),
        (
            Mute(),
            "tests.app.test_failures_in_words.Mute: (it cannot say what happened: its __str__ raised RuntimeError)",
        ),
    ],
    ids=["surrogate", "nul", "rejected", "mute"],
)
async def test_whatever_an_exception_says_is_a_reason(
    store: str, error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store != "memory://":
        monkeypatch.setenv("HEADRACE_DEAD_LETTERS", store)
    app = App("shop", broker="memory://", store=store)
    handled = []

    @app.on("order.created", retry=Retry(attempts=2, backoff=exponential(initial=0.01, maximum=0.01)))
    async def bill(order: dict) -> None:
        if order["n"] == 1:
            raise error
        handled.append(order["n"])

    async with app.running() as worker:
        await app.publish("order.created", {"n": 1})
        await app.publish("order.created", {"n": 2})
        letters = worker.dead_letters
        assert letters is not None
        found = []
        while not found or not handled:
            found = [stored.letter async for stored in letters.scan("shop")]
            await asyncio.sleep(0.01)
        assert [letter.reason for letter in found] == [reason]
        assert all(text.encode() for text in (found[0].message, found[0].traceback, found[0].errors[0].message))
    assert handled == [2]


async def test_a_key_that_cannot_be_written_is_a_dead_letter() -> None:
    app = App("shop", store="memory://")

    @app.on("order.created", key=lambda event: "k\udcff")
    async def bill(order: dict) -> None: ...

    async with app.testing() as t:
        await t.send("order.created", {})
        (letter,) = t.dead_letters
        assert "key function" in letter.reason
        assert r"\udcff" in letter.reason


async def test_a_letter_that_its_store_cannot_take_keeps_no_other_from_its_place(caplog) -> None:
    app = App("shop", broker="memory://", store="memory://")

    @app.on("order.created")
    async def bill(order: dict) -> None:
        raise Reject(f"order {order['n']}")

    async with app.running() as worker:
        letters = worker.dead_letters
        assert letters is not None
        put = letters.put

        async def choosy(batch):
            if any(letter.reason == "rejected: order 1" for letter in batch):
                raise ValueError("not this one")
            return await put(batch)

        letters.put = choosy
        for number in range(3):
            await app.publish("order.created", {"n": number})
        while "not this one" not in caplog.text or len(letters.stored) < 2:
            await asyncio.sleep(0.01)
        assert worker.runtime.failure is None
        letters.put = put
