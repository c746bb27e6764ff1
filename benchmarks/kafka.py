"""The Kafka rows: the whole of Headrace beside librdkafka's bare loops and FastStream, on one broker in one run.

Every round reads the same backlog with each peer in turn; medians and ratios are printed as JSON lines. Headrace runs an app
as a user writes it: CloudEvents in binary mode to a typed struct, key lanes, the memory ledger, measures on. Then publishing
with confirmation beside the bare producer loop, and a handler that waits 5 ms on one partition beside 64 bare tasks.
``--events N``, ``--rounds N``, ``--url kafka://…`` for a broker that runs already, ``--rows consume,produce,waiting``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from benchmarks import kafka_loops
from benchmarks.waiting import KEYS, wait
from headrace import App

PEERS = Path(__file__).parent / "peers"
BENCH_PYTHON = Path(".bench-venv/bin/python")
PARTITIONS = 12
#: Publishers at work at once, each waiting for its confirmation.
PUBLISHERS = 1000
FASTSTREAM = {
    "FastStream, confluent-kafka": "faststream_confluent.py",
    "FastStream, aiokafka": "faststream_aiokafka.py",
}


class Order(msgspec.Struct):
    id: str
    customer: str
    amount: float


def as_headrace_run() -> None:
    """What `headrace run` does before events flow."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def consume(url: str, topic: str, events: int) -> float:
    """Events a second, from the first to the last handled, of an app on the backlog; all of them are settled."""
    # A name of its own for each round: a new handler of a known app is refused as a renamed one.
    app = App(f"bench{time.time_ns()}", broker=url)
    handled = 0
    first = last = 0.0
    done = asyncio.Event()

    async def handle(order: Order) -> None:
        nonlocal handled, first, last
        if not handled:
            first = time.perf_counter()
        handled += 1
        if handled == events:
            last = time.perf_counter()
            done.set()

    app.on(topic, key="customer")(handle)
    as_headrace_run()
    async with app.running() as worker:
        await done.wait()
        assert worker.runtime is not None
        (runner,) = worker.runtime.handlers
        while runner.measures.outcomes["ok"] < events:
            await asyncio.sleep(0.001)
    assert handled == events, f"{handled} handled, {events} expected"
    return events / (last - first)


async def produce(url: str, topic: str, events: int) -> float:
    """Events a second through `app.publish`, each confirmed, many publishers at a time."""
    app = App("bench", broker=url)
    orders = [
        (key, {"id": str(index), "customer": key, "amount": index % 90 + 0.5})
        for index, (key, _, _) in enumerate(kafka_loops.records(events, 1))
    ]
    as_headrace_run()
    async with app.running():
        await app.publish(topic, orders[0][1], key=orders[0][0])
        source = iter(orders)

        async def publisher() -> None:
            for key, order in source:
                await app.publish(topic, order, key=key)

        begun = time.perf_counter()
        await asyncio.gather(*(publisher() for _ in range(PUBLISHERS)))
        return events / (time.perf_counter() - begun)


async def bare_tasks(events: int) -> float:
    """Events a second of 64 tasks that only wait."""

    async def task() -> None:
        for _ in range(events // KEYS):
            await wait()

    begun = time.perf_counter()
    await asyncio.gather(*(task() for _ in range(KEYS)))
    return events / (time.perf_counter() - begun)


async def waiting(url: str, topic: str, events: int) -> float:
    """Events a second of a handler that waits 5 ms: one partition, 64 keys in turn."""
    app = App(f"bench{time.time_ns()}", broker=url, concurrency=KEYS)
    handled = 0
    first = last = 0.0
    done = asyncio.Event()

    async def handle(order: Order) -> None:
        nonlocal handled, first, last
        first = first or time.perf_counter()
        await wait()
        handled += 1
        if handled == events:
            last = time.perf_counter()
            done.set()

    app.on(topic, key="customer")(handle)
    async with app.running():
        await done.wait()
    return events / (last - first)


def fill_in_turn(bootstrap: str, topic: str, events: int) -> None:
    """64 keys in turn on one partition."""
    from confluent_kafka import Producer

    producer: Any = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    _, headers, _ = next(kafka_loops.records(1, 1))
    for index in range(events):
        body = b'{"id":"%d","customer":"c%d","amount":1.5}' % (index, index % KEYS)
        own = [(name, b"%d" % index if name == "ce_id" else value) for name, value in headers]
        producer.produce(topic, body, b"c%d" % (index % KEYS), headers=own)
        producer.poll(0)
    assert producer.flush(30) == 0


def faststream(script: str, bootstrap: str, topic: str, events: int) -> float | None:
    """Events a second of a peer in the peers' environment."""
    if not BENCH_PYTHON.exists():
        return None
    command = [str(BENCH_PYTHON), str(PEERS / script), bootstrap, topic, str(events)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return events / float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def run(coroutine: Any) -> float:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result: float = runner.run(coroutine)
    gc.unfreeze()
    return result


def report(row: str, rates: dict[str, list[float]]) -> None:
    """One line a peer, with the median of the ratios of each round."""
    ours = rates["headrace"]
    for name, found in rates.items():
        if found:
            ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, found, strict=True))
            line = {"row": row, "peer": name, "events_per_second": round(statistics.median(found))}
            print(json.dumps({**line, "headrace_to_it": round(ratio, 3)}), flush=True)


def row_consume(bootstrap: str, events: int, rounds: int) -> None:
    topic, small = f"bench.consume{time.time_ns()}", f"bench.small{time.time_ns()}"
    some = max(1000, events // 20)
    for name, count in ((topic, events), (small, some)):
        kafka_loops.create(bootstrap, name, PARTITIONS)
        kafka_loops.produce_loop(bootstrap, name, count)
    rates: dict[str, list[float]] = {"raw consume loop": [], "headrace": [], **{name: [] for name in FASTSTREAM}}
    for _ in range(rounds):
        rates["raw consume loop"].append(kafka_loops.consume_loop(bootstrap, topic, events))
        rates["headrace"].append(run(consume(f"kafka://{bootstrap}", topic, events)))
        for name, script in FASTSTREAM.items():
            rate = faststream(script, bootstrap, small, some)
            if rate is not None:
                rates[name].append(rate)
    report("Kafka consume", rates)


def row_produce(bootstrap: str, events: int, rounds: int) -> None:
    rates: dict[str, list[float]] = {"raw produce loop": [], "headrace": []}
    count = events // 3
    for turn in range(rounds):
        loops: dict[str, Callable[[str], float]] = {
            "raw produce loop": lambda topic: kafka_loops.produce_loop(bootstrap, topic, count),
            "headrace": lambda topic: run(produce(f"kafka://{bootstrap}", topic, count)),
        }
        for name, loop in loops.items():
            topic = f"bench.produce{turn}x{time.time_ns()}"
            kafka_loops.create(bootstrap, topic, PARTITIONS)
            rates[name].append(loop(topic))
    report("Kafka publish, confirmed", rates)


def row_waiting(bootstrap: str, events: int, rounds: int) -> None:
    count = min(20_000, events)
    topic = f"bench.waiting{time.time_ns()}"
    kafka_loops.create(bootstrap, topic, 1)
    fill_in_turn(bootstrap, topic, count)
    rates: dict[str, list[float]] = {"64 bare tasks": [], "headrace": []}
    for _ in range(rounds):
        rates["64 bare tasks"].append(run(bare_tasks(count)))
        rates["headrace"].append(run(waiting(f"kafka://{bootstrap}", topic, count)))
    report("Kafka, 5 ms handler, one partition, 64 keys", rates)


ROWS = {"consume": row_consume, "produce": row_produce, "waiting": row_waiting}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="a Kafka broker that runs already; default: one of the test servers")
    parser.add_argument("--rows", default=",".join(ROWS))
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if options.url:
            bootstrap = options.url.removeprefix("kafka://")
        else:
            from tests.servers.kafka import Kafka

            bootstrap = stack.enter_context(Kafka().start()).bootstrap
        for row in options.rows.split(","):
            ROWS[row](bootstrap, options.events, options.rounds)
    names = ("confluent-kafka", "msgspec", "uvloop")
    print(json.dumps({"versions": {name: version(name) for name in names}}))


if __name__ == "__main__":
    main()
