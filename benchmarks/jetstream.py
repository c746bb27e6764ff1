"""The JetStream rows: the whole of Headrace beside the protocol-hook loop, nats-py's fetch loop and FastStream, in one run.

Every round reads the same backlog with each peer in turn; medians and ratios are printed as JSON lines. Headrace runs an app as
a user writes it: JSON events to a typed struct, key lanes, the memory ledger, measures on. ``--events N``, ``--rounds N``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
import nats as nats_py
import uvloop

from benchmarks import nats_loops
from headrace import App
from headrace.nats.embedded import Embedded

PEERS = Path(__file__).parent / "peers"
BENCH_PYTHON = Path(".bench-venv/bin/python")


class Order(msgspec.Struct):
    id: str
    customer: str
    amount: float


async def headrace_loop(url: str, events: int) -> float:
    """Events a second, from the first to the last handled, of an app on the backlog; all of them are settled."""
    app = App("bench", broker=url)
    seen = 0
    first = last = 0.0
    done = asyncio.Event()

    async def handle(order: Order) -> None:
        nonlocal seen, first, last
        if not seen:
            first = time.perf_counter()
        seen += 1
        if seen == events:
            last = time.perf_counter()
            done.set()

    app.on(nats_loops.SUBJECT, key="customer", name="handle")(handle)
    # As `headrace run` does before events flow.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    async with app.running() as worker:
        await done.wait()
        assert worker.runtime is not None
        (runner,) = worker.runtime.handlers
        while runner.measures.outcomes["ok"] < events:
            await asyncio.sleep(0.001)
    assert seen == events, f"{seen} handled, {events} expected"
    return events / (last - first)


async def headrace_latency(url: str, rate: int, seconds: float) -> tuple[float, float]:
    """Median and 99th percentile, in microseconds, from publish to handler at a steady rate."""
    app = App("latency", broker=url)
    found: list[float] = []

    async def handle(data: dict) -> None:  # type: ignore[type-arg]
        found.append((time.perf_counter_ns() - data["at"]) / 1000)

    app.on("pace.created", key="k")(handle)
    count = int(rate * seconds)
    async with app.running():
        connection = await nats_py.connect(url)
        begun = time.perf_counter()
        for number in range(count):
            delay = begun + number / rate - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            body = json.dumps({"k": number % 64, "at": time.perf_counter_ns()}).encode()
            await connection.publish("pace.created", body)
        while len(found) < count:
            await asyncio.sleep(0.01)
        await connection.close()
    found.sort()
    return found[count // 2], found[count * 99 // 100]


def faststream(url: str, events: int) -> float | None:
    """FastStream's pull subscriber, in the peers' environment."""
    if not BENCH_PYTHON.exists():
        return None
    done = subprocess.run(
        [BENCH_PYTHON, PEERS / "faststream_nats.py", url, nats_loops.SUBJECT, str(events)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def measure(url: str, events: int, rounds: int) -> dict[str, list[float]]:
    """Events a second of each peer and round."""
    loops: dict[str, Callable[[str, int], Awaitable[float]]] = {
        "protocol-hook loop": nats_loops.hook_loop,
        "headrace": headrace_loop,
        "nats-py fetch loop": nats_loops.fetch_loop,
    }
    rates: dict[str, list[float]] = {name: [] for name in (*loops, "FastStream")}
    for _ in range(rounds):
        for name, loop in loops.items():
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rates[name].append(runner.run(loop(url, events)))
        some = max(1000, events // 10)
        seconds = faststream(url, some)
        if seconds is not None:
            rates["FastStream"].append(some / seconds)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(nats_loops.forget(url))
    return {name: found for name, found in rates.items() if found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Embedded(Path(folder)) as server:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(nats_loops.prepare(server.url, options.events))
        rates = measure(server.url, options.events, options.rounds)
        medians = {name: statistics.median(found) for name, found in rates.items()}
        for name, rate in medians.items():
            line = {"row": "JetStream", "peer": name, "events_per_second": round(rate)}
            print(json.dumps({**line, "headrace_to_it": round(medians["headrace"] / rate, 2)}), flush=True)
        latencies = {}
        for name, latency in (("nats-py push", nats_loops.push_latency), ("headrace", headrace_latency)):
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                latencies[name] = runner.run(latency(server.url, options.rate, options.seconds))
            p50, p99 = latencies[name]
            line = {"row": f"latency at {options.rate}/s", "peer": name, "p50_us": round(p50), "p99_us": round(p99)}
            print(json.dumps(line), flush=True)
    print(json.dumps({"versions": {name: version(name) for name in ("nats-py", "msgspec", "uvloop")}}))


if __name__ == "__main__":
    main()
