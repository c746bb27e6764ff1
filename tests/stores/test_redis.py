"""The Redis ledger on a real server: conformance, outages, what the server's settings lose, retention."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from headrace.engine.ledger import Owner
from headrace.errors import ConfigurationError, ConnectionFailed, StoreUnavailable
from headrace.stores import open_store
from headrace.stores import redis as stores_redis
from headrace.testing.conformance import (
    DurableLedgerConformance,
    LedgerConformance,
    OutageConformance,
    SharedLedgerConformance,
)


def an_owner(id: str = "one") -> Owner:
    return Owner("shop", id, os.getpid(), "here")


def an_app() -> str:
    """A name of the test's own: the shared server has one key space."""
    return f"t{uuid.uuid4().hex[:12]}"


class Emptied:
    """An empty server for each test: the suites' names are always the same."""

    @pytest.fixture(autouse=True)
    async def _place(self, redis_server) -> None:

        self.url = redis_server.url
        async with Redis.from_url(self.url) as client:
            await client.flushall()


class TestRedis(Emptied, LedgerConformance, DurableLedgerConformance, SharedLedgerConformance):
    pass


class TestRedisPaused(OutageConformance):
    """SIGSTOP to the server."""

    @pytest.fixture(autouse=True)
    def _place(self, start_redis, monkeypatch) -> None:
        monkeypatch.setattr(stores_redis, "ANSWER", 0.4)
        self.server = start_redis()
        self.url = self.server.url

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.server.pause()
        yield
        self.server.resume()


class TestRedisKilled(TestRedisPaused):
    """SIGKILL to the server, and a restart on its data; its scripts are forgotten."""

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.server.kill()
        yield
        await asyncio.to_thread(self.server.restart)


class TestRedisConnectionsCut(Emptied, OutageConformance):
    """The network between is away."""

    @pytest.fixture(autouse=True)
    def _wire(self, _place, redis_server, start_wire) -> None:
        self.wire = start_wire(redis_server.ports[0])
        self.url = f"redis://127.0.0.1:{self.wire.port}/0"

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.wire.refuse()
        self.wire.reset()
        yield
        self.wire.heal()


class TestRedisFull(OutageConformance):
    """A server at its memory limit that does not evict: every write is refused."""

    @pytest.fixture(autouse=True)
    def _place(self, start_redis) -> None:
        self.server = start_redis()
        self.url = self.server.url

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        async with Redis.from_url(self.url) as client:
            await client.config_set("maxmemory", "1")
            yield
            await client.config_set("maxmemory", "0")


async def a_ledger(server, **settings):
    store = open_store(server.url, app=an_app())
    for name, value in settings.items():
        setattr(store.ledger, name, value)
    await store.open(an_owner())
    return store


async def test_marks_go_after_the_retention(redis_server):
    store = await a_ledger(redis_server, retention=1.0)
    await store.ledger.claim("bill", [("s", "1"), ("s", "2")])
    await store.ledger.mark("bill", [("s", "1")], "done")
    async with asyncio.timeout(20):
        while (await store.ledger.claim("bill", [("s", "1")]))[0].state != "claimed":
            await asyncio.sleep(0.1)
    assert [claim.state for claim in await store.ledger.claim("bill", [("s", "2")])] == ["ours"]
    await store.close()


async def test_a_lease_is_renewed_again_after_a_password_was_refused_for_a_moment(redis_server, monkeypatch):
    store = await a_ledger(redis_server, renew=0.05)
    renew, refusals, renewed = store.ledger._renew_lease, ["WRONGPASS"], asyncio.Event()

    async def refused_once():
        if refusals:
            raise ConnectionFailed(refusals.pop())
        await renew()
        renewed.set()

    monkeypatch.setattr(store.ledger, "_renew_lease", refused_once)
    async with asyncio.timeout(20):
        await renewed.wait()
    assert not refusals
    await store.close()


async def test_a_mark_whose_answer_was_lost_is_recognised_when_it_is_repeated(redis_server, start_wire, monkeypatch):
    monkeypatch.setattr(stores_redis, "ANSWER", 0.3)
    wire = start_wire(redis_server.ports[0])
    store = open_store(f"redis://127.0.0.1:{wire.port}/0", app=an_app())
    await store.open(an_owner())
    await store.ledger.claim("bill", [("s", "1")])
    wire.cut_after(0, towards="client")
    with pytest.raises(StoreUnavailable):
        await store.ledger.mark("bill", [("s", "1")], "done")
    wire.heal()
    assert list(await store.ledger.mark("bill", [("s", "1")], "done")) == [True]
    await store.close()


async def test_more_events_than_one_script_takes(redis_server, monkeypatch):
    monkeypatch.setattr(stores_redis, "BATCH", 7)
    store = await a_ledger(redis_server)
    events = [("s", str(number)) for number in range(50)]
    assert {claim.state for claim in await store.ledger.claim("bill", events)} == {"claimed"}
    assert all(await store.ledger.mark("bill", events[10:40], "done"))
    await store.ledger.release("bill", events)
    expected = ["claimed"] * 10 + ["done"] * 30 + ["claimed"] * 10
    assert [claim.state for claim in await store.ledger.claim("bill", events)] == expected
    await store.close()


async def test_settings_that_lose_data_are_said_at_the_start(start_redis, caplog):
    server = start_redis()
    async with Redis.from_url(server.url) as client:
        await client.config_set("appendonly", "no")
        await client.config_set("maxmemory", "100mb")
        await client.config_set("maxmemory-policy", "allkeys-lru")
    store = await a_ledger(server)
    assert "appendonly is no" in caplog.text
    assert "maxmemory-policy is allkeys-lru" in caplog.text
    await store.close()


async def test_settings_that_keep_everything_are_not_complained_of(redis_server, caplog):
    store = await a_ledger(redis_server)
    assert caplog.text == ""
    await store.close()


async def test_a_wrong_password_is_a_refusal(start_redis):
    server = start_redis(password="right")
    for wrong in (server.url.replace("right", "wrong"), server.url.replace(":right@", "")):
        with pytest.raises(ConnectionFailed, match="refused the connection") as caught:
            await open_store(wrong, app="shop").open(an_owner())
        assert caught.value.exit_code == 4
        assert "wrong" not in str(caught.value).replace("WRONGPASS", "")
    store = open_store(server.url, app="shop")
    await store.open(an_owner())
    await store.close()


async def test_a_server_that_is_not_there_is_an_outage(monkeypatch):
    monkeypatch.setattr(stores_redis, "STARTING", 0.1)
    with pytest.raises(StoreUnavailable):
        await open_store("redis://127.0.0.1:9/0", app="shop").open(an_owner())


def test_a_url_that_cannot_be_is_refused():
    with pytest.raises(ConfigurationError, match="redis://"):
        open_store("redis://host:port/0", app="shop")


async def test_a_closed_store_says_so(redis_server):
    store = await a_ledger(redis_server)
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.ledger.claim("bill", [("s", "1")])
