"""The engine alone: an in-memory source of binary-mode messages, typed data, key lanes, memory ledger, measures.

Prints one JSON line: microseconds an event (of the process's CPU time, and by the wall clock, which a busy machine stretches)
and Python calls an event; each round is noted, the least is the figure. ``--events N``, ``--keys N``, ``--profile``.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import sys
from collections.abc import Sequence
from time import perf_counter, process_time
from typing import Any

import msgspec
import uvloop

from headrace.cloudevents import nats
from headrace.compilation import compile_all
from headrace.engine.delivery import Delivery, Outcome
from headrace.engine.ledger import Owner
from headrace.engine.runtime import Runtime
from headrace.engine.source import Credit, Progress
from headrace.memory.dead_letters import MemoryDeadLetters
from headrace.router import Router
from headrace.settings import Settings
from headrace.stores import open_store


class Order(msgspec.Struct):
    id: str
    customer: str
    amount: float


def messages(count: int, keys: int) -> list[tuple[list[tuple[bytes, bytes]], bytes]]:
    """Small binary-mode events as a broker's client hands them over."""
    return [
        (
            [
                (b"ce-specversion", b"1.0"),
                (b"ce-id", b"order-%d" % number),
                (b"ce-source", b"/shop/web"),
                (b"ce-type", b"order.created"),
                (b"ce-time", b"2026-11-24T10:00:00Z"),
                (b"ce-datacontenttype", b"application/json"),
            ],
            b'{"id":"o%d","customer":"c%d","amount":12.5}' % (number, number % keys),
        )
        for number in range(count)
    ]


class Prepared:
    """Hands out what it was given, within the credit."""

    name = "bench"
    keeps_order = True
    extend_every = None

    def __init__(self, prepared: list[tuple[list[tuple[bytes, bytes]], bytes]]) -> None:
        self.prepared = prepared
        self.at = 0
        self.settled = 0
        self.done = asyncio.Event()

    async def open(self) -> None: ...

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        chunk = self.prepared[self.at : self.at + credit.items]
        if not chunk:
            await asyncio.Event().wait()
        self.at += len(chunk)
        decode = nats.decode_binary
        return [Delivery(self, decode(headers, body), len(body) + 256) for headers, body in chunk]

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        self.settled += 1
        if self.settled == len(self.prepared):
            self.done.set()

    async def flush(self) -> Sequence[Delivery]:
        return ()

    async def extend(self, deliveries: Sequence[Delivery]) -> None: ...

    async def close(self) -> None: ...

    def progress(self) -> Progress:
        return Progress(connected=True)


async def run(
    events: int, keys: int, *, store_url: str = "memory://", typed: bool = True, profile: Any = None
) -> tuple[float, float]:
    """Seconds that the engine takes for so many events: CPU and wall clock."""
    router = Router()

    async def handle(order: Order) -> None:
        pass

    router.on("order.created", key="customer")(handle)
    compiled = compile_all("bench", router.registrations, Settings.resolve({}, {}))
    store = open_store(store_url, app="bench")
    await store.open(Owner("bench", "1", 1, "bench"))
    runtime = Runtime("bench", ledger=store.ledger, dead_letters=MemoryDeadLetters(), sink=lambda name: None)  # type: ignore[arg-type,return-value]
    source = Prepared(messages(events, keys))
    runtime.add(compiled[0].handler, [source])
    # As `headrace run` does before events flow; what is prepared is not the engine's to look through.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    begun, used = perf_counter(), process_time()
    if profile is not None:
        profile()
    runtime.start()
    await source.done.wait()
    if profile is not None:
        sys.setprofile(None)
    seconds = process_time() - used, perf_counter() - begun
    assert runtime.handlers[0].measures.outcomes["ok"] == events
    await runtime.drain()
    await store.close()
    return seconds


def calls_per_event(events: int = 20_000, keys: int = 64) -> float:
    """Python function calls an event, counted by the interpreter."""
    counted = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal counted
        if event == "call":
            counted += 1

    asyncio.run(run(events, keys, profile=lambda: sys.setprofile(count)))
    return counted / events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--keys", type=int, default=64)
    parser.add_argument("--store", default="memory://")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.profile:
        profiler = cProfile.Profile()
        profiler.enable()
        asyncio.run(run(options.events, options.keys))
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rounds = [
            runner.run(run(options.events, options.keys, store_url=options.store))
            for _ in range(5 if options.store == "memory://" else 1)
        ]
    cpu, wall = ([round(seconds / options.events * 1e6, 2) for seconds in kind] for kind in zip(*rounds, strict=True))
    print(
        json.dumps(
            {
                "row": "engine alone",
                "cpu_microseconds": min(cpu),
                "wall_microseconds": min(wall),
                "events_per_second": round(1e6 / min(wall)),
                "calls": round(calls_per_event(), 1) if options.store == "memory://" else None,
                "events": options.events,
                "keys": options.keys,
                "store": options.store.partition(":")[0],
                "rounds": {"cpu": cpu, "wall": wall},
            }
        )
    )


if __name__ == "__main__":
    main()
