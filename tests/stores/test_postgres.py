"""The PostgreSQL store on a real server: conformance, migrations, outages, retention, refusals."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from headrace.engine.ledger import Owner
from headrace.stores.postgres import pool as pools
from headrace.testing.conformance import (
    CheckpointConformance,
    DeadLetterConformance,
    DurableLedgerConformance,
    LedgerConformance,
    OutageConformance,
    SharedLedgerConformance,
    SuspectConformance,
)


def a_database(server) -> str:
    """The URL of a new, empty database."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.url.rpartition("/")[0] + f"/{name}"


@pytest.fixture
def url(postgres_server) -> str:
    return a_database(postgres_server)


def an_owner(id: str = "one") -> Owner:
    return Owner("shop", id, os.getpid(), "here")


class TestPostgres(
    LedgerConformance,
    DurableLedgerConformance,
    SharedLedgerConformance,
    DeadLetterConformance,
    CheckpointConformance,
    SuspectConformance,
):
    @pytest.fixture(autouse=True)
    def _place(self, url) -> None:
        self.url = url


class TestPostgresPaused(OutageConformance):
    """SIGSTOP to the server: connections stand, nothing is answered."""

    @pytest.fixture(autouse=True)
    def _place(self, start_postgres, monkeypatch) -> None:
        monkeypatch.setattr(pools, "ANSWER", 0.4)
        self.server = start_postgres()
        self.url = self.server.url

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.server.pause()
        yield
        self.server.resume()


class TestPostgresKilled(TestPostgresPaused):
    """SIGKILL to the server, and a restart on its data."""

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.server.kill()
        yield
        await asyncio.to_thread(self.server.restart)
