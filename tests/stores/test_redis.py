"""The Redis ledger on a real server: conformance, outages, what the server's settings lose, retention."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from headrace.engine.ledger import Owner
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
        from redis.asyncio import Redis

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
