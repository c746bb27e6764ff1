"""A handler that waits 5 ms, 64 keys round-robin, concurrency 64, beside 64 bare tasks that run the same handler."""

from __future__ import annotations

import asyncio
import json
import time

import uvloop

from benchmarks.engine import Order, Prepared, messages
from headrace.compilation import compile_all
from headrace.engine.ledger import Owner
from headrace.engine.runtime import Runtime
from headrace.memory.dead_letters import MemoryDeadLetters
from headrace.router import Router
from headrace.settings import Settings
from headrace.stores import open_store

EVENTS = 20_000
KEYS = 64


async def wait() -> None:
    await asyncio.sleep(0.005)


async def bare() -> float:
    """Events a second of 64 tasks that do nothing else."""

    async def task() -> None:
        for _ in range(EVENTS // KEYS):
            await wait()

    begun = time.perf_counter()
    await asyncio.gather(*(task() for _ in range(KEYS)))
    return EVENTS / (time.perf_counter() - begun)


async def ours() -> float:
    """Events a second of the engine."""
    router = Router()

    async def handle(order: Order) -> None:
        await wait()

    router.on("order.created", key="customer")(handle)
    (compiled,) = compile_all("bench", router.registrations, Settings.resolve({}, {}))
    store = open_store("memory://", app="bench")
    await store.open(Owner("bench", "1", 1, "bench"))
    runtime = Runtime("bench", ledger=store.ledger, dead_letters=MemoryDeadLetters(), sink=lambda name: None)  # type: ignore[arg-type,return-value]
    source = Prepared(messages(EVENTS, KEYS))
    runtime.add(compiled.handler, [source])
    begun = time.perf_counter()
    runtime.start()
    await source.done.wait()
    seconds = time.perf_counter() - begun
    await runtime.drain()
    return EVENTS / seconds


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rounds = [(runner.run(bare()), runner.run(ours())) for _ in range(3)]
    ratio = sorted(mine / theirs for theirs, mine in rounds)[1]
    theirs, mine = rounds[-1]
    line = {"row": "5 ms handler", "bare_tasks": round(theirs), "headrace": round(mine), "ratio": round(ratio, 3)}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
