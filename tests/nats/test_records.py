"""Checkpoints and suspects in the key-value bucket."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import StoreUnavailable
from headrace.nats.bucket import text_of, token
from tests.nats.conftest import Connect
from tests.nats.server import NatsServer


async def test_checkpoints_are_kept_by_scope(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    store = broker.checkpoints(app)
    assert store is not None
    assert await store.load("shop__a") == {}
    await store.save("shop__a", {"uid 1/ä": b"7", "b": b"\x00\xff", "": b"empty name"})
    await store.save("shop__ab", {"c": b"other"})
    other = (await connect(server)).checkpoints(app)
    assert other is not None
    assert await other.load("shop__a") == {"uid 1/ä": b"7", "b": b"\x00\xff", "": b"empty name"}
    await other.save("shop__a", {"b": None, "d": b"new"})
    assert await store.load("shop__a") == {"uid 1/ä": b"7", "d": b"new", "": b"empty name"}


async def test_thousands_of_checkpoints_are_saved_together(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    store = broker.checkpoints(app)
    assert store is not None
    values = {f"pod-{n}": b"%d" % n for n in range(2500)}
    await store.save("s", values)
    assert await store.load("s") == values


async def test_starts_are_counted_over_processes_until_they_are_finished(
    server: NatsServer, connect: Connect, app: str
) -> None:
    one, two = (await connect(server)).suspects(app), (await connect(server)).suspects(app)
    assert one is not None
    assert two is not None
    events = [("/s", "1"), ("/s", "2")]
    assert await one.started("bill", events) == [1, 1]
    assert await two.started("bill", events[:1]) == [2]
    assert await two.started("ship", events[:1]) == [1]
    await one.finished("bill", events[:1])
    assert await two.started("bill", events) == [1, 2]


async def test_starts_at_the_same_time_are_all_counted(server: NatsServer, connect: Connect, app: str) -> None:
    stores = [(await connect(server)).suspects(app) for _ in range(4)]
    counts = await asyncio.gather(*(store.started("bill", [("/s", "1")]) for store in stores if store is not None))
    assert sorted(count for (count,) in counts) == [1, 2, 3, 4]


async def test_an_unclean_end_is_known_to_the_next_process(
    server: NatsServer, connect: Connect, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_SLOT", "1")
    store = (await connect(server)).suspects(app)
    assert store is not None
    assert await store.begin(app, "p1") is False
    assert await store.begin(app, "p2") is True
    await store.end(app, "p2")
    assert await store.begin(app, "p3") is False
    monkeypatch.setenv("HEADRACE_SLOT", "2")
    assert await store.begin(app, "p4") is False


async def test_an_outage_raises_store_unavailable(own_server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(own_server)
    store = broker.checkpoints(app)
    assert store is not None
    await store.save("s", {"a": b"1"})
    own_server.kill()
    with pytest.raises(StoreUnavailable):
        await store.save("s", {"a": b"2"})
    with pytest.raises(StoreUnavailable):
        await store.load("s")


@given(st.text())
def test_any_text_is_a_token_and_back(text: str) -> None:
    made = token(text)
    assert made
    assert not set(made) & set(". *>\r\n\t")
    assert text_of(made) == text
