"""A store that is away in mid-load: the flow waits and goes on; nothing is handled unprotected, nothing is dropped.

Each outage begins when a third of the events are handled and lasts a second after the flow was seen to wait; twenty in
the long form, which is longer than a lease.
"""

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace import App, Retry
from headrace.errors import StoreUnavailable
from headrace.stores import Transaction
from headrace.stores import redis as stores_redis
from headrace.stores.postgres import pool as pools
from tests.servers.disk import SmallDisk
from tests.servers.process import Unavailable

EVENTS = 1_200
PAYMENTS = 400
CONCURRENCY = 16
LASTS = pytest.mark.parametrize(
    "seconds", [1.0, pytest.param(20.0, marks=[pytest.mark.long, pytest.mark.timeout(600)])], ids=["short", "long"]
)
#: Short, so that an outage of a second or two is one.
ANSWER = 0.5


class Paused:
    """SIGSTOP to the server."""

    def __init__(self, start) -> None:
        self.server = start()
        self.url = self.server.url

    async def begin(self) -> None:
        self.server.pause()

    async def end(self) -> None:
        self.server.resume()


class Killed(Paused):
    """SIGKILL, and a restart on the same data."""

    async def begin(self) -> None:
        self.server.kill()

    async def end(self) -> None:
        await asyncio.to_thread(self.server.restart)


class Cut(Paused):
    """Every connection reset, new ones refused."""

    def __init__(self, start, start_wire) -> None:
        super().__init__(start)
        port = self.server.ports[0]
        self.wire = start_wire(port)
        self.url = self.url.replace(f":{port}/", f":{self.wire.port}/")

    async def begin(self) -> None:
        self.wire.refuse()
        self.wire.reset()

    async def end(self) -> None:
        self.wire.heal()


class FullDisk:
    """SQLite without a page left to grow by: SQLITE_FULL at every write of the ledger."""

    def __init__(self, folder) -> None:
        self.url = f"sqlite:///{folder}/store.db"
        self.file = None

    async def begin(self) -> None:
        def fill(connection: sqlite3.Connection) -> None:
            connection.execute("CREATE TABLE IF NOT EXISTS filler (data)")
            connection.execute(
                "CREATE TRIGGER IF NOT EXISTS full BEFORE INSERT ON headrace_marks BEGIN INSERT INTO filler SELECT zeroblob(8192); END"
            )

        await self.done(fill)
        await self.done(
            lambda c: (
                c.execute(f"PRAGMA max_page_count = {c.execute('PRAGMA page_count').fetchone()[0]}").fetchone() and None
            )
        )

    async def end(self) -> None:
        await self.done(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchone() and None)
        await self.done(lambda c: c.execute("DROP TRIGGER IF EXISTS full") and None)

    async def done(self, work) -> None:
        # It may share its transaction with a mark that finds the disk full: then none of it was done.
        while True:
            with contextlib.suppress(StoreUnavailable):
                return await self.file.do(work)


class SmallDiskFull:
    """SQLite on a disk of its own without a byte left."""

    def __init__(self, disk: SmallDisk) -> None:
        self.disk = disk
        self.url = f"sqlite:///{disk.folder}/store.db"

    async def begin(self) -> None:
        self.disk.fill()

    async def end(self) -> None:
        self.disk.clear()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk."""
    try:
        made = SmallDisk(tmp_path / "disk", 8 << 20)
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield made
    made.close()


@pytest.fixture(
    params=[
        "postgres-paused",
        "postgres-killed",
        "postgres-cut",
        "redis-paused",
        "redis-killed",
        "redis-cut",
        "sqlite-full",
        "sqlite-disk",
    ]
)
def outage(request, monkeypatch, tmp_path):
    store, kind = request.param.split("-")
    monkeypatch.setattr(pools, "ANSWER", ANSWER)
    monkeypatch.setattr(stores_redis, "ANSWER", ANSWER)
    if store == "sqlite":
        return FullDisk(tmp_path) if kind == "full" else SmallDiskFull(request.getfixturevalue("disk"))
    start = request.getfixturevalue(f"start_{store}")
    if kind == "cut":
        return Cut(start, request.getfixturevalue("start_wire"))
    return (Paused if kind == "paused" else Killed)(start)


async def until(holds, within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.01)


@LASTS
async def test_a_ledger_that_is_away_is_waited_for(outage, seconds):
    app = App("shop", broker="memory://", store=outage.url, prefetch=64)
    handled: Counter[int] = Counter()

    @app.on("order.created", key="customer", concurrency=CONCURRENCY, retry=Retry(attempts=1))
    async def bill(order: dict) -> None:
        await asyncio.sleep(0.001)
        handled[order["number"]] += 1

    async with app.running() as worker:
        if isinstance(outage, FullDisk):
            outage.file = worker.store.connection
        (runner,) = worker.runtime.handlers
        for number in range(EVENTS):
            await app.publish("order.created", {"number": number, "customer": f"c{number % 50}"}, id=f"e{number}")
        await until(lambda: len(handled) >= EVENTS // 3)
        await outage.begin()
        await until(lambda: "waits for the store" in runner.health_detail())
        await asyncio.sleep(seconds)
        # Only what was claimed before is handled meanwhile, and it stays within the prefetch.
        assert len(handled) < EVENTS
        await outage.end()
        await until(lambda: runner.measures.outcomes["ok"] == EVENTS)
        assert runner.health_detail() == ""
        assert runner.measures.outcomes["dead"] == runner.measures.outcomes["dropped"] == 0
        known = await worker.store.ledger.claim("bill", [("/shop", f"e{number}") for number in range(EVENTS)])
        assert Counter(claim.state for claim in known) == {"done": EVENTS}
    assert handled == Counter(range(EVENTS))


@LASTS
@pytest.mark.parametrize("kind", [Paused, Killed, Cut])
async def test_a_transactional_handler_waits_for_its_store_and_does_everything_once(
    kind, seconds, start_postgres, start_wire, monkeypatch
):
    monkeypatch.setattr(pools, "ANSWER", ANSWER)
    outage = kind(start_postgres, start_wire) if kind is Cut else kind(start_postgres)
    app = App("shop", broker="memory://", store=outage.url)

    @app.on("order.created", key="customer", concurrency=8, retry=Retry(attempts=1), publishes="order.paid")
    async def pay(order: dict, tx: Transaction) -> dict:
        await tx.execute("INSERT INTO payments VALUES (%s)", (order["number"],))
        return order

    async with app.running() as worker:
        (runner,) = worker.runtime.handlers
        await worker.store.connection.fetch("CREATE TABLE payments (number int)")
        for number in range(PAYMENTS):
            await app.publish("order.created", {"number": number, "customer": f"c{number % 50}"})
        await until(lambda: runner.measures.outcomes["ok"] >= PAYMENTS // 3)
        await outage.begin()
        await asyncio.sleep(seconds)
        assert runner.measures.outcomes["ok"] < PAYMENTS
        await outage.end()
        await until(lambda: runner.measures.outcomes["ok"] == PAYMENTS)
        published = worker.broker.at("order.paid").events
        await until(lambda: len({event.id for event in published}) == PAYMENTS)
        assert runner.measures.outcomes["dead"] == 0
        rows = await worker.store.connection.fetch("SELECT number, count(*) FROM payments GROUP BY number")
        assert Counter(dict(rows)) == Counter(range(PAYMENTS))
