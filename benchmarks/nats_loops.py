"""The peers of the JetStream rows: bare loops on nats-py, without any framework, and our source alone.

- ``hook``: deliveries taken in a `Client` subclass before `Msg` objects are made, overlapping pulls, headers parsed by hand,
  acks written in batches, uvloop: what Python can do on nats-py.
- ``fetch``: nats-py's own ``fetch(1000)`` and an ack per message.
- ``source``: our source, fetching, decoding to events and acknowledging, without the engine.
- ``push``: latency from publish to call-back of a nats-py push subscription at a steady rate; ``source-latency``: ours.

Each prints one JSON line. Every loop checks that it saw each event once. ``--events N``, ``--rate N``, ``--rows a,b``,
``--url`` for a server that runs already.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nats
import uvloop
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig

from headrace import Event
from headrace.engine.broker import Binding
from headrace.engine.delivery import ACK
from headrace.engine.sink import Publication
from headrace.engine.source import Credit
from headrace.nats.broker import NatsBroker, create
from headrace.nats.embedded import Embedded

SUBJECT = "bench.created"
PULL = 1000


def event(number: int) -> Event:
    """A small order."""
    return Event(
        "order.created",
        "/shop/web",
        {"id": f"o{number}", "customer": f"c{number % 64}", "amount": 12.5},
        id=f"order-{number}",
        time="2026-11-24T10:00:00Z",
        datacontenttype="application/json",
    )


async def prepare(url: str, events: int, *, batch: int = 2000) -> None:
    """Publish the backlog that every loop reads."""
    broker = create(url, app="prepare", settings={}, ready_within=5)
    await broker.open()
    sink = broker.sink(SUBJECT)
    await sink.open()
    for first in range(0, events, batch):
        numbers = range(first, min(first + batch, events))
        for result in await sink.publish([Publication(event(number)) for number in numbers]):
            if isinstance(result, Exception):
                raise result
    await broker.close()


class Hook(Client):
    """nats-py with its message processing replaced."""

    def __init__(self, inbox_number: int) -> None:
        super().__init__()
        self.inbox_number = inbox_number
        self.taken: list[tuple[bytes, bytes | None, bytes]] = []
        self.arrived: asyncio.Future[None] | None = None

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        if sid != self.inbox_number or not reply:
            if sid != self.inbox_number:
                await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.taken.append((reply, headers, data))
        if self.arrived is not None and not self.arrived.done():
            self.arrived.set_result(None)


def parsed(block: bytes | None) -> dict[str, str]:
    """Headers by hand."""
    if not block:
        return {}
    lines = block.decode().split("\r\n")
    return dict(line.split(": ", 1) for line in lines[1:] if line)


async def hook_loop(url: str, events: int) -> float:
    """Events a second of the protocol-hook loop."""
    client = Hook(2)
    await client.connect(url)
    js = client.jetstream()
    config = ConsumerConfig(
        durable_name="hook", ack_policy=AckPolicy.EXPLICIT, filter_subject=SUBJECT, max_ack_pending=20000
    )
    await js.add_consumer("bench", config)
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    assert subscription._id == client.inbox_number, subscription._id
    pull = json.dumps({"batch": PULL, "expires": 30_000_000_000}).encode()

    async def ask() -> None:
        await client.publish("$JS.API.CONSUMER.MSG.NEXT.bench.hook", pull, reply=inbox)

    seen: set[str] = set()
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    await ask()
    await ask()
    count = asked = 0
    asked = 2 * PULL
    while count < events:
        if not client.taken:
            client.arrived = loop.create_future()
            await client.arrived
        batch, client.taken = client.taken, []
        replies = []
        for reply, block, _ in batch:
            seen.add(parsed(block)["ce-id"])
            replies.append(reply)
        await client._send_command(b"PUB " + b" 0\r\n\r\nPUB ".join(replies) + b" 0\r\n\r\n")
        await client._flush_pending()
        count += len(batch)
        while asked - count < 2 * PULL - PULL // 2:
            asked += PULL
            await ask()
    seconds = time.perf_counter() - begun
    assert len(seen) == count == events, (len(seen), count)
    await client.flush()
    await client.close()
    return events / seconds


async def fetch_loop(url: str, events: int) -> float:
    """Events a second of nats-py's own ``fetch(1000)``, acknowledged one by one."""
    client = await nats.connect(url)
    js = client.jetstream()
    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=20000)
    subscription = await js.pull_subscribe(SUBJECT, durable="fetch", stream="bench", config=config)
    seen: set[str] = set()
    count = 0
    begun = time.perf_counter()
    while count < events:
        for message in await subscription.fetch(min(1000, events - count), timeout=10):
            assert message.headers is not None
            seen.add(message.headers["ce-id"])
            await message.ack()
            count += 1
    await client.flush()
    seconds = time.perf_counter() - begun
    assert len(seen) == events
    await client.close()
    return events / seconds


def _binding(broker: NatsBroker, handler: str, *, keyed: bool) -> Binding:
    return Binding(
        app="bench",
        handler=handler,
        keyed=keyed,
        concurrency=64,
        prefetch=Credit(256, 64 << 20),
        parked=Credit(10_000, 64 << 20),
        timeout=30,
        handlers=("shared", "keyed", "latency", "latencykeyed"),
        broker=broker,
    )


async def source_loop(url: str, events: int, *, keyed: bool = False) -> float:
    """Events a second of our source: fetched by the default credit, decoded, acknowledged."""
    broker = create(url, app="bench", settings={}, ready_within=5)
    source = broker.channel(SUBJECT, _binding(broker, "keyed" if keyed else "shared", keyed=keyed))
    await source.open()
    seen: set[str] = set()
    count = 0
    credit = Credit(320, 64 << 20)
    begun = time.perf_counter()
    while count < events:
        batch = await source.fetch(credit)
        for delivery in batch:
            assert delivery.event is not None
            seen.add(delivery.event.id)
            source.settle(delivery, ACK)
        count += len(batch)
    assert not await source.flush()
    seconds = time.perf_counter() - begun
    assert len(seen) == events
    await source.close()
    await broker.close()
    return events / seconds


async def _paced(rate: int, seconds: float, publish: Callable[[bytes], Awaitable[None]]) -> int:
    """Publish the present time at a steady rate; how many."""
    count = int(rate * seconds)
    begun = time.perf_counter()
    for number in range(count):
        due = begun + number / rate
        left = due - time.perf_counter()
        if left > 0:
            await asyncio.sleep(left)
        await publish(b"%d" % time.perf_counter_ns())
    return count


def _percentiles(found: list[int]) -> tuple[float, float]:
    found = sorted(found)
    return found[len(found) // 2] / 1000, found[int(len(found) * 0.99)] / 1000


async def push_latency(url: str, rate: int, seconds: float) -> tuple[float, float]:
    """p50 and p99 in microseconds of a nats-py push subscription."""
    publisher, client = await nats.connect(url), await nats.connect(url)
    js = client.jetstream()
    await js.add_stream(name="latency", subjects=["latency"])
    found: list[int] = []

    async def arrived(message: Any) -> None:
        found.append(time.perf_counter_ns() - int(message.data))
        await message.ack()

    await js.subscribe("latency", stream="latency", cb=arrived, manual_ack=True)

    async def publish(body: bytes) -> None:
        await publisher.publish("latency", body)

    count = await _paced(rate, seconds, publish)
    async with asyncio.timeout(10):
        while len(found) < count:
            await asyncio.sleep(0.01)
    await js.delete_stream("latency")
    await publisher.close()
    await client.close()
    return _percentiles(found)


async def source_latency(url: str, rate: int, seconds: float, *, keyed: bool = False) -> tuple[float, float]:
    """p50 and p99 in microseconds of our source."""
    publisher = await nats.connect(url)
    await publisher.jetstream().add_stream(name="latency", subjects=["latency"])
    broker = create(url, app="bench", settings={}, ready_within=5)
    source = broker.channel("latency", _binding(broker, "latencykeyed" if keyed else "latency", keyed=keyed))
    await source.open()
    found: list[int] = []

    async def receive() -> None:
        while True:
            for delivery in await source.fetch(Credit(320, 64 << 20)):
                now = time.perf_counter_ns()
                found.append(now - int(delivery.original().body or b"0"))
                source.settle(delivery, ACK)

    receiving = asyncio.create_task(receive())

    async def publish(body: bytes) -> None:
        await publisher.publish("latency", body)

    await publish(b"%d" % time.perf_counter_ns())
    await asyncio.sleep(0.2)
    found.clear()
    count = await _paced(rate, seconds, publish)
    async with asyncio.timeout(10):
        while len(found) < count:
            await asyncio.sleep(0.01)
    receiving.cancel()
    await source.close()
    await broker.close()
    await publisher.jetstream().delete_stream("latency")
    await publisher.close()
    return _percentiles(found)


ROWS = ("hook", "fetch", "source", "source-keyed", "push", "source-latency")


async def run(url: str, rows: Sequence[str], events: int, rate: int, rounds: int) -> None:
    """Measure the rows, interleaved, ``rounds`` times; the median of each."""
    if any(row in ("hook", "fetch", "source", "source-keyed") for row in rows):
        await prepare(url, events)
    results: dict[str, list[Any]] = {row: [] for row in rows}
    for _ in range(rounds):
        for row in rows:
            if row == "hook":
                results[row].append(await hook_loop(url, events))
            elif row == "fetch":
                results[row].append(await fetch_loop(url, events))
            elif row == "push":
                results[row].append(await push_latency(url, rate, 5.0))
            elif row == "source-latency":
                results[row].append(await source_latency(url, rate, 5.0))
            else:
                results[row].append(await source_loop(url, events, keyed=row == "source-keyed"))
        await forget(url)
    for row in rows:
        middle = sorted(results[row])[len(results[row]) // 2]
        if isinstance(middle, tuple):
            line = {"row": row, "rate": rate, "p50_us": round(middle[0]), "p99_us": round(middle[1])}
        else:
            line = {"row": row, "events": events, "events_per_second": round(middle)}
        print(json.dumps({**line, "nats-py": version("nats-py"), "all": results[row]}), flush=True)


async def forget(url: str) -> None:
    """Delete the loops' consumers, so that each round reads everything."""
    client = await nats.connect(url)
    js = client.jetstream()
    for consumer in await js.consumers_info("bench"):
        await js.delete_consumer("bench", consumer.name)
    await client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--url", default="")
    options = parser.parse_args()
    rows = options.rows.split(",")
    with tempfile.TemporaryDirectory() as folder:
        if options.url:
            uvloop.run(run(options.url, rows, options.events, options.rate, options.rounds))
        else:
            with Embedded(Path(folder)) as server:
                uvloop.run(run(server.url, rows, options.events, options.rate, options.rounds))


if __name__ == "__main__":
    main()
