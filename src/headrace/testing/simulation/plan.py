"""What a seed means: the app, its load, and every fault with its time. Nothing else in a simulation is random."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Failure", "Fault", "Plan", "plan"]

#: What a handler does with an event before it succeeds: fail so many times, reject it, drop it, or fail for good.
Failure = Literal["", "retry", "after", "reject", "drop", "poison"]


@dataclass(frozen=True, slots=True)
class Fault:
    """``what`` happens at ``at`` (virtual seconds) to process number ``process`` for ``seconds``.

    ``kill``: dies. ``kill_at_call``: dies at its ``count``-th call of a store, sink or source, before or after the effect.
    ``freeze``: stands still (SIGSTOP) and goes on. ``drain``: ends in good order. All three come back. ``rebalance``:
    partitions change hands. ``ledger``, ``letters``, ``sink``: away; ``late`` where the effect happens and the answer is
    lost. ``slow``: each call takes seconds. ``cut``: settlements are lost.
    """

    what: str
    at: float
    process: int = 0
    seconds: float = 0.0
    count: int = 0
    late: bool = False


@dataclass(slots=True)
class Plan:
    """One simulated world, before it begins."""

    seed: int
    ordered: bool
    durable: bool
    publishes: bool
    attempts: int
    concurrency: int
    prefetch: int
    replicas: int
    partitions: int
    ack_wait: float
    fresh_epoch: bool
    work: float
    events: list[tuple[float, str, str]] = field(default_factory=list)
    failures: dict[str, tuple[Failure, int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def calm_after(self) -> float:
        """When the last event has been published and the last fault is over."""
        return max([0.0, *(at for at, _, _ in self.events), *(fault.at + fault.seconds for fault in self.faults)])


def plan(seed: int) -> Plan:
    """The plan of a seed."""
    rng = random.Random(seed)
    ordered = rng.random() < 0.65
    made = Plan(
        seed=seed,
        ordered=ordered,
        durable=rng.random() < 0.7,
        publishes=rng.random() < 0.4,
        attempts=rng.randint(1, 4),
        concurrency=rng.choice((1, 2, 4, 8)),
        prefetch=rng.choice((1, 4, 16, 64)),
        replicas=rng.choice((1, 1, 2, 2, 3)),
        partitions=rng.choice((1, 2, 3)),
        ack_wait=rng.choice((12.0, 30.0)),
        fresh_epoch=rng.random() < 0.5,
        work=rng.choice((0.0, 0.01, 0.2, 1.0)),
    )
    _load(made, rng)
    _faults(made, rng)
    return made


def _load(made: Plan, rng: random.Random) -> None:
    keys = rng.randint(1, 6)
    count = rng.randint(8, 45)
    spread = rng.choice((0.0, 5.0, 25.0))
    times = sorted(rng.random() * spread for _ in range(count))
    for number, at in enumerate(times):
        id = f"e{number}"
        made.events.append((at, id, f"k{rng.randrange(keys)}"))
        chance = rng.random()
        if chance < 0.12:
            made.failures[id] = ("retry", rng.randint(1, 3))
        elif chance < 0.15:
            made.failures[id] = ("after", 1)
        elif chance < 0.18:
            made.failures[id] = ("reject", 0)
        elif chance < 0.20:
            made.failures[id] = ("drop", 0)
        elif chance < 0.23:
            made.failures[id] = ("poison", 0)
    if made.durable and rng.random() < 0.3:
        # A producer that did not hear the confirmation sends again.
        for _ in range(rng.randint(1, 4)):
            at, id, key = rng.choice(made.events)
            made.events.append((at + rng.random() * 10, id, key))
    made.events.sort(key=lambda event: event[0])


def _faults(made: Plan, rng: random.Random) -> None:
    end = 40.0
    add = made.faults.append
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        process = rng.randrange(made.replicas)
        if rng.random() < 0.6:
            add(
                Fault(
                    "kill_at_call", rng.random() * end / 2, process, count=rng.randint(1, 25), late=rng.random() < 0.5
                )
            )
        else:
            add(Fault("kill", rng.random() * end, process))
    if rng.random() < 0.3:
        add(
            Fault(
                "freeze", rng.random() * end, rng.randrange(made.replicas), seconds=rng.choice((2.0, 8.0, 25.0, 60.0))
            )
        )
    for _ in range(rng.choice((0, 0, 1, 2))):
        add(Fault("drain", rng.random() * end, rng.randrange(made.replicas)))
    if made.ordered and made.replicas > 1:
        for _ in range(rng.choice((0, 1, 2))):
            add(Fault("rebalance", rng.random() * end))
    for what, chance in (("ledger", 0.35), ("letters", 0.3), ("sink", 0.3), ("cut", 0.3)):
        if rng.random() < chance:
            seconds = rng.choice((0.3, 3.0, 20.0))
            add(Fault(what, rng.random() * end, seconds=seconds, late=rng.random() < 0.5))
    if rng.random() < 0.3:
        add(Fault("slow", rng.random() * end, seconds=rng.choice((1.0, 10.0)), late=rng.random() < 0.5))
    made.faults.sort(key=lambda fault: fault.at)
