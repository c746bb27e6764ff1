"""The PostgreSQL store on a real server: conformance, migrations, outages, retention, refusals."""

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from headrace.engine.ledger import Owner
from headrace.errors import ConfigurationError, ConnectionFailed, StoreUnavailable
from headrace.stores import open_store
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
from headrace.testing.conformance.records import make_letter


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


class TestPostgresConnectionsCut(OutageConformance):
    """The network between is away: connections are reset, new ones refused."""

    @pytest.fixture(autouse=True)
    def _place(self, postgres_server, start_wire, monkeypatch) -> None:
        monkeypatch.setattr(pools, "ANSWER", 2.0)
        direct = a_database(postgres_server)
        self.wire = start_wire(postgres_server.ports[0])
        self.url = direct.replace(f":{postgres_server.ports[0]}/", f":{self.wire.port}/")

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.wire.refuse()
        self.wire.reset()
        yield
        self.wire.heal()


async def test_a_mark_whose_answer_was_lost_is_recognised_when_it_is_repeated(postgres_server, start_wire, monkeypatch):
    monkeypatch.setattr(pools, "ANSWER", 0.3)
    direct = a_database(postgres_server)
    wire = start_wire(postgres_server.ports[0])
    store = open_store(direct.replace(f":{postgres_server.ports[0]}/", f":{wire.port}/"), app="shop")
    await store.open(an_owner())
    events = [("s", str(number)) for number in range(10)]
    await store.ledger.claim("bill", events)
    wire.cut_after(0, towards="client")
    with pytest.raises(StoreUnavailable):
        await store.ledger.mark("bill", events, "done")
    wire.heal()
    assert list(await store.ledger.mark("bill", events, "done")) == [True] * 10
    await store.close()


async def test_a_claim_whose_answer_was_lost_is_claimed_when_it_is_repeated(postgres_server, start_wire, monkeypatch):
    monkeypatch.setattr(pools, "ANSWER", 0.3)
    direct = a_database(postgres_server)
    wire = start_wire(postgres_server.ports[0])
    store = open_store(direct.replace(f":{postgres_server.ports[0]}/", f":{wire.port}/"), app="shop")
    await store.open(an_owner())
    wire.cut_after(0, towards="client")
    with pytest.raises(StoreUnavailable):
        await store.ledger.claim("bill", [("s", "1")])
    wire.heal()
    assert [claim.state for claim in await store.ledger.claim("bill", [("s", "1")])] == ["claimed"]
    assert [claim.state for claim in await store.ledger.claim("bill", [("s", "1")])] == ["ours"]
    await store.close()


async def test_many_replicas_may_migrate_an_empty_database_at_once(url):
    script = (
        "import asyncio, sys\n"
        "from headrace.engine.ledger import Owner\n"
        "from headrace.stores import open_store\n"
        "async def main():\n"
        "    store = open_store(sys.argv[1], app='shop')\n"
        "    await store.open(Owner('shop', sys.argv[2], 1, 'here'))\n"
        "    claims = await store.ledger.claim('bill', [('s', '1')])\n"
        "    print(claims[0].state, flush=True)\n"
        "    sys.stdin.read()\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", script, url, str(number)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(4)
    ]
    states = sorted([(await process.stdout.readline()).decode().strip() for process in processes])
    for process in processes:
        process.stdin.close()
        assert await process.wait() == 0
    assert states == ["busy", "busy", "busy", "claimed"]


async def test_tables_of_a_newer_headrace_are_refused_untouched(url):
    store = open_store(url, app="shop")
    await store.open(an_owner())
    await store.close()
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE headrace_schema SET version = 99")
    with pytest.raises(ConfigurationError, match=r"schema version 99.*upgrade Headrace"):
        await open_store(url, app="shop").open(an_owner())
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT version FROM headrace_schema").fetchall() == [(99,)]


async def test_a_user_who_may_not_make_tables_is_told_so(url):
    role = f"r{uuid.uuid4().hex[:8]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with pytest.raises(ConfigurationError, match="right to create tables"):
        await open_store(url.replace("postgres@", f"{role}@"), app="shop").open(an_owner())


@pytest.mark.parametrize("wrong", ["database", "role"])
async def test_a_server_that_refuses_us_is_named_without_the_password(url, wrong):
    bad = url + "x" if wrong == "database" else url.replace("postgres@", "nobody:secret@")
    with pytest.raises(ConnectionFailed, match="does not exist") as caught:
        await open_store(bad, app="shop").open(an_owner())
    assert caught.value.exit_code == 4
    assert "secret" not in str(caught.value)


async def test_a_server_that_is_not_there_is_an_outage(monkeypatch):
    monkeypatch.setattr(pools, "STARTING", 0.1)
    with pytest.raises(StoreUnavailable, match="refused"):
        await open_store("postgresql://postgres@127.0.0.1:9/postgres", app="shop").open(an_owner())


def test_a_url_without_a_database_is_refused():
    with pytest.raises(ConfigurationError, match="names no database"):
        open_store("postgresql://postgres@localhost", app="shop")


async def test_old_marks_go_stretch_by_stretch_and_live_claims_stay(url, monkeypatch):
    monkeypatch.setattr("headrace.stores.postgres.ledger.SWEEP_BLOCKS", 8)
    store = open_store(url, app="shop")
    ledger = store.ledger
    ledger.retention = 3600.0
    await store.open(an_owner())
    events = [("s", str(number)) for number in range(5_000)]
    await ledger.claim("bill", events)
    await ledger.mark("bill", events[1:], "done")
    with psycopg.connect(url, autocommit=True) as other:

        def left() -> int:
            return other.execute("SELECT count(*) FROM headrace_ledger").fetchone()[0]

        other.execute("UPDATE headrace_ledger SET at = now() - interval '2 hours'")
        await ledger.claim("bill", [("young", "1")])
        await ledger.mark("bill", [("young", "1")], "done")
        counts = [left()]
        while ledger._rest_until == 0.0:
            await ledger.sweep()
            counts.append(left())
        assert counts[0] == 5_001
        assert counts[-1] == 2
        assert len(counts) > 5, "more than one stretch"
    answers = await ledger.claim("bill", [events[0], ("young", "1"), events[1]])
    assert [claim.state for claim in answers] == ["ours", "done", "claimed"]
    await store.close()


async def test_a_statement_that_cannot_be_is_no_outage(url):
    store = open_store(url, app="shop")
    await store.open(an_owner())
    with pytest.raises(psycopg.errors.UndefinedTable):
        await store.connection.fetch("SELECT * FROM nothing")
    await store.close()


async def test_one_letter_that_cannot_be_stored_does_not_take_the_others_with_it(url):
    store = open_store(url, app="shop")
    await store.open(an_owner())
    results = await store.dead_letters.put([make_letter(1), make_letter(2, handler="a\0b"), make_letter(3)])
    assert [result is None for result in results] == [True, False, True]
    assert "cannot hold dead letter" in str(results[1])
    await store.close()


async def test_a_closed_store_says_so(url):
    store = open_store(url, app="shop")
    await store.open(an_owner())
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.ledger.claim("bill", [("s", "1")])
