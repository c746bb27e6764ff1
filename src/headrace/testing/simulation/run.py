"""Runs one seed to its end and judges it.

    python -m headrace.testing.simulation 1 1000

A seed whose run breaks a rule replays exactly: the same steps, the same sentence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from headrace.engine import runner
from headrace.engine.runtime import Runtime
from headrace.testing.history import Verdict, check
from headrace.testing.simulation.brokers import Broker, LogBroker, StreamBroker
from headrace.testing.simulation.loop import Stalled, VirtualLoop
from headrace.testing.simulation.plan import Fault, Plan, plan
from headrace.testing.simulation.process import CURRENT, Process
from headrace.testing.simulation.stores import SharedLedger
from headrace.testing.simulation.world import World

__all__ = ["Bug", "Report", "Simulation", "simulate"]

#: Virtual seconds that everything may take after the last fault is over.
PATIENCE = 900.0


@dataclass(slots=True)
class Report:
    """How a seed went. ``fault`` is empty where every rule held; ``steps`` counts attempts, ``seconds`` is virtual time."""

    seed: int
    fault: str
    steps: int
    seconds: float
    processes: int
    verdict: Verdict

    @property
    def ok(self) -> bool:
        return not self.fault


@dataclass(frozen=True, slots=True)
class Bug:
    """A fault planted on purpose. ``world``: changes the simulation before it starts; ``engine``: each engine before it starts."""

    name: str
    world: Callable[[Simulation], None] | None = None
    engine: Callable[[Runtime], None] | None = None


class Simulation:
    """The world of one plan, with its broker, its ledger and its processes."""

    def __init__(self, plan: Plan, bug: Bug | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.plan = plan
        self.world = World(plan, self.loop.time)
        self.broker: Broker = LogBroker(self.world) if plan.ordered else StreamBroker(self.world)
        self.ledger = SharedLedger(self.world) if plan.durable else None
        self.processes: list[Process] = []
        self.started = 0
        self._bug = bug
        self.loop.set_exception_handler(self._raised)
        if bug is not None and bug.world is not None:
            bug.world(self)

    def _raised(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody took is a defect, unless it is a dead process's."""
        if context["message"].startswith("Task was destroyed"):
            return  # a dead process's, collected late
        handle = context.get("handle")
        process = None if handle is None else handle._context.get(CURRENT)
        if process is None or process.alive:
            self.world.breach(f"{context['message']}: {context.get('exception')!r}")

    async def run(self) -> str:
        """To the end: everything published is finished and acknowledged, or a rule is broken. Returns the fault."""
        plan = self.plan
        for at, id, key in plan.events:
            self.loop.call_at(at, self._publish, id, key)
        for number in range(plan.replicas):
            self.processes.append(self._start(number))
        for fault in plan.faults:
            self.loop.call_at(fault.at, self._fault, fault)
        calm = plan.calm_after
        while self.world.broken is None:
            await asyncio.sleep(0.5)
            now = self.loop.time()
            if now > calm and self.broker.finished():
                return ""
            if now > calm + PATIENCE:
                owed = sorted(id for id in self.world.published if not self.world.done(id))
                return (
                    f"seed {plan.seed}: stuck: {PATIENCE:g} s after the last fault these are not handled: "
                    f"{owed or 'none, but some not acknowledged'}"
                )
        return str(self.world.broken)

    def _publish(self, id: str, key: str) -> None:
        self.world.publish(id, key)
        self.broker.append(id, key)

    def _start(self, number: int) -> Process:
        self.started += 1
        process = Process(self.world, f"p{number}.{self.started}", self.broker, self.ledger)
        if self._bug is not None:
            process.instrument = self._bug.engine
        process.start()
        return process

    def _again(self, number: int) -> None:
        if not self.processes[number].alive:
            self.processes[number] = self._start(number)

    def _fault(self, fault: Fault) -> None:
        process = self.processes[fault.process]
        world = self.world
        if fault.what == "kill":
            process.kill()
            self.loop.call_later(1.0 + world.rng.random() * 12, self._again, fault.process)
        elif fault.what == "kill_at_call":
            process.dies_at_call = (fault.count, fault.late)
            self.loop.create_task(self._revive(process, fault.process))
        elif fault.what == "freeze":
            process.freeze(fault.seconds)
        elif fault.what == "drain":
            self.loop.create_task(self._replace(process, fault.process))
        elif fault.what == "rebalance":
            self.broker.rebalance()
        else:
            world.away[fault.what] = fault.late
            self.loop.call_later(fault.seconds, world.away.pop, fault.what, None)

    async def _revive(self, process: Process, number: int) -> None:
        await process.dead.wait()
        await asyncio.sleep(self.world.rng.random() * 12)
        self._again(number)

    async def _replace(self, process: Process, number: int) -> None:
        if process.alive:
            await process.drain()
        await asyncio.sleep(0.5)
        self._again(number)


def simulate(seed: int, bug: Bug | None = None, *, changed: Callable[[Plan], None] | None = None) -> Report:
    """Run one seed.

    Parameters:
        seed: which world.
        bug: a fault planted on purpose, which a simulation worth its name finds.
        changed: alters the plan before it runs, to narrow a failure down.
    """
    made = plan(seed)
    if changed is not None:
        changed(made)
    loop = VirtualLoop()
    asyncio.set_event_loop(None)
    with _quiet(loop):
        try:
            simulation = loop.run_until_complete(_make(made, bug))
            try:
                fault = loop.run_until_complete(simulation.run())
            except Stalled as error:
                fault = f"seed {seed}: {error}"
            verdict = check(simulation.world.facts, ordered=made.ordered)
            if not fault and not verdict.ok:
                fault = f"seed {seed}: {verdict}"
            return Report(seed, fault, simulation.world.steps, loop.time(), simulation.started, verdict)
        finally:
            _end(loop)


async def _make(made: Plan, bug: Bug | None) -> Simulation:
    return Simulation(made, bug)


def _end(loop: VirtualLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


@contextmanager
def _quiet(loop: VirtualLoop) -> Iterator[None]:
    """Nothing is logged, the engine's slices end by virtual time, and every task is known to its process."""

    def task_made(task: asyncio.Task[Any]) -> None:
        process = task.get_context().get(CURRENT) if hasattr(task, "get_context") else CURRENT.get()
        if process is not None:
            process.tasks.append(task)

    loop.on_task = task_made
    log = logging.getLogger("headrace.engine")
    disabled, log.disabled = log.disabled, True
    module: Any = runner
    clock, module.perf_counter = module.perf_counter, loop.time
    try:
        yield
    finally:
        log.disabled = disabled
        module.perf_counter = clock
