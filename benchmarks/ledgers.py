"""Ledgers, transactional handlers and the outbox, on real servers, each beside what the raw client does.

One JSON line a row. ``ledger``: claim and mark in batches, events a second, and the client's own ceiling: the same number of
keys written twice in the same batches by the driver alone. ``transactional handler``: the whole engine, one transaction an
event, beside the same statements (effect, outbox row, mark) by hand with the same driver and as many connections.
``outbox``: a backlog published in order per key. Servers are those of the tests; their disks are the machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import tempfile
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import psycopg
import redis.asyncio
import uvloop

from headrace import App, Event
from headrace.engine.ledger import Identity, Owner
from headrace.engine.relay import Relay
from headrace.engine.sink import Published
from headrace.engine.transactions import Outgoing
from headrace.stores import Transaction, open_store
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

#: Batches under way at once: claims of one subscription and marks of another overlap in the engine as well.
LANES = 4


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def identities(count: int) -> list[Identity]:
    return [("/shop/web", f"order-{number}") for number in range(count)]


async def timed(work: Callable[[int, int], Awaitable[None]], events: int, batch: int) -> float:
    """Events a second of ``work(start, end)`` over batches, some at once."""
    starts = iter(range(0, events, batch))

    async def lane() -> None:
        for start in starts:
            await work(start, min(start + batch, events))

    begun = perf_counter()
    await asyncio.gather(*(lane() for _ in range(LANES)))
    return events / (perf_counter() - begun)


async def ledger(url: str, events: int, batch: int) -> float:
    store = open_store(url, app="bench")
    await store.open(Owner("bench", uuid.uuid4().hex, os.getpid(), "bench"))
    names = identities(events)

    async def work(start: int, end: int) -> None:
        claims = await store.ledger.claim("bill", names[start:end])
        assert claims[0].state == "claimed"
        assert all(await store.ledger.mark("bill", names[start:end], "done"))

    rate = await timed(work, events, batch)
    await store.close()
    return rate


async def raw_postgres(url: str, events: int, batch: int) -> float:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE raw (key text PRIMARY KEY, state int)")
    connections = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(LANES)]

    async def work(start: int, end: int) -> None:
        connection = connections.pop()
        keys = [f"order-{number}" for number in range(start, end)]
        await connection.execute("INSERT INTO raw SELECT k, 0 FROM unnest(%s::text[]) k", (keys,))
        await connection.execute("UPDATE raw SET state = 1 WHERE key = ANY(%s::text[])", (keys,))
        connections.append(connection)

    rate = await timed(work, events, batch)
    for connection in connections:
        await connection.close()
    return rate


async def raw_redis(url: str, events: int, batch: int) -> float:
    client = redis.asyncio.Redis.from_url(url)

    async def work(start: int, end: int) -> None:
        for value in ("claimed", "done"):
            await client.mset({f"raw:order-{number}": value for number in range(start, end)})

    rate = await timed(work, events, batch)
    await client.aclose()
    return rate


async def raw_sqlite(path: str, events: int, batch: int) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE raw (key TEXT PRIMARY KEY, state INT) WITHOUT ROWID")
    begun = perf_counter()
    for start in range(0, events, batch):
        keys = [(f"order-{number}",) for number in range(start, min(start + batch, events))]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT OR REPLACE INTO raw VALUES (?, 1)", keys)
        connection.execute("COMMIT")
    rate = events / (perf_counter() - begun)
    connection.close()
    return rate


async def ledgers(postgres: str, cache: str, folder: Path, events: int, batch: int) -> None:
    for name, url, raw, goal in (
        ("sqlite", f"sqlite:///{folder}/ledger.db", lambda: raw_sqlite(str(folder / "raw.db"), events, batch), 20_000),
        ("postgresql", postgres, lambda: raw_postgres(postgres, events, batch), 10_000),
        ("redis, appendfsync always", cache, lambda: raw_redis(cache, events, batch), 30_000),
        ("redis, appendfsync everysec", cache, lambda: raw_redis(cache, events, batch), 30_000),
    ):
        if name.startswith("redis"):
            async with redis.asyncio.Redis.from_url(url) as client:
                await client.config_set("appendfsync", name.rpartition(" ")[2])
                await client.flushall()
        ceiling = await raw()
        rate = await ledger(url, events, batch)
        say(row=f"ledger {name}", events_per_second=round(rate), raw_client=round(ceiling), goal=goal, batch=batch)


async def handled(url: str, events: int, concurrency: int) -> float:
    """Events a second of a transactional handler with one statement and one output."""
    app = App("bench", broker="memory://", store=url, concurrency=concurrency)

    @app.on("order.created", publishes="order.paid", concurrency=concurrency)
    async def pay(order: dict, tx: Transaction) -> dict:
        await tx.execute("INSERT INTO payments VALUES (%s, %s)", (order["id"], order["amount"]))
        return order

    async with app.running() as worker:
        # The peer does not publish either; the backlog is a row of its own.
        await worker.relay.stop(0.0)
        (runner,) = worker.runtime.handlers
        runner.paused = True
        for number in range(events):
            await app.publish("order.created", {"id": f"o{number}", "amount": 12.5})
        begun = perf_counter()
        runner.paused = False
        runner.wake()
        while runner.measures.outcomes["ok"] < events:
            await asyncio.sleep(0.002)
        seconds = perf_counter() - begun
    return events / seconds


async def by_hand(url: str, events: int, concurrency: int) -> float:
    """The same statements, in transactions of the same size, with the driver alone."""
    connections = [await psycopg.AsyncConnection.connect(url) for _ in range(concurrency)]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as setup:
        await setup.execute("CREATE TABLE IF NOT EXISTS hand_ledger (key text PRIMARY KEY, state int, at timestamptz)")
        await setup.execute("CREATE TABLE IF NOT EXISTS hand_outbox (number bigserial PRIMARY KEY, data bytea)")
    numbers = iter(range(events))

    async def work(connection: psycopg.AsyncConnection[Any]) -> None:
        for number in numbers:
            order = {"id": f"o{number}", "amount": 12.5}
            async with connection.transaction():
                await connection.execute("INSERT INTO payments VALUES (%s, %s)", (order["id"], order["amount"]))
                await connection.execute("INSERT INTO hand_outbox (data) VALUES (%s)", (json.dumps(order).encode(),))
                await connection.execute("INSERT INTO hand_ledger VALUES (%s, 1, now())", (uuid.uuid4().hex,))

    begun = perf_counter()
    await asyncio.gather(*(work(connection) for connection in connections))
    seconds = perf_counter() - begun
    for connection in connections:
        await connection.close()
    return events / seconds


async def transactional(url: str, events: int, concurrency: int) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as setup:
        await setup.execute("CREATE TABLE payments (id text, amount float)")
    ours, hand = [], []
    for _ in range(3):
        hand.append(await by_hand(url, events, concurrency))
        ours.append(await handled(url, events, concurrency))
    say(
        row="transactional handler on postgresql",
        events_per_second=round(max(ours)),
        by_hand=round(max(hand)),
        ratio=round(max(ours) / max(hand), 2),
        goal=0.6,
        concurrency=concurrency,
    )


async def backlog(name: str, url: str, events: int, keys: int) -> None:
    """Publish a backlog that a first process left behind; the sink confirms at once, so this is the relay's own rate."""
    store = open_store(url, app="backlog")
    await store.open(Owner("backlog", uuid.uuid4().hex, os.getpid(), "bench"))
    assert store.transactions is not None
    assert store.outbox is not None
    number = 0
    while number < events:
        unit = await store.transactions.begin(Transaction)
        rows = [row(number + index, keys) for index in range(min(1_000, events - number))]
        await unit.commit("bill", None, rows)
        number += len(rows)
    published: list[Any] = []

    async def publish(destination: Any, publications: Any) -> list[Published]:
        published.extend((one.key, one.event.id) for one in publications)
        return [Published()] * len(publications)

    async def resolve(destination: str) -> str:
        return destination

    relay = Relay(store.outbox, publish, resolve)
    begun = perf_counter()
    relay.start(lambda error: print(error))
    while relay.relayed < events:
        await asyncio.sleep(0.01)
    seconds = perf_counter() - begun
    await relay.stop(1.0)
    await store.close()
    last: dict[str, int] = {}
    for key, id in published:
        assert int(id) > last.get(key, -1), "out of order"
        last[key] = int(id)
    assert len(published) == events
    say(row=f"outbox backlog {name}", events_per_second=round(events / seconds), events=events, keys=keys)


def row(number: int, keys: int) -> bytes:
    key = f"c{number % keys}"
    event = Event(type="order.paid", source="/bench", id=str(number), data={"number": number})
    return msgspec.msgpack.encode(Outgoing("channel:order.paid", key, f"key {key}", 0, event.to_json()))


async def main(options: argparse.Namespace) -> None:
    rows = options.rows.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "ledger" in rows:
            with Postgres() as postgres, Redis() as cache:
                await ledgers(postgres.url, cache.url, folder, options.events, options.batch)
        if "transactional" in rows:
            with Postgres() as postgres:
                await transactional(postgres.url, options.transactions, options.concurrency)
        if "outbox" in rows:
            with Postgres() as postgres:
                await backlog("sqlite", f"sqlite:///{folder}/outbox.db", options.backlog, options.keys)
                await backlog("postgresql", postgres.url, options.backlog, options.keys)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="ledger,transactional,outbox")
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--transactions", type=int, default=4_000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--backlog", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=1_000)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(parser.parse_args()))
