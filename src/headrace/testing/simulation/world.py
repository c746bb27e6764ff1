"""What is true outside the processes: events, outputs, letters, marks, and the rules that no run may break.

The world is told of every effect at the moment it takes effect, and refuses the first one that the promise forbids:
so a fault is found where it happens, not by what is missing at the end.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from headrace.testing.history import Fact
from headrace.testing.simulation.plan import Plan

if TYPE_CHECKING:
    from headrace.testing.simulation.process import Process

__all__ = ["Broken", "World"]


class Broken(AssertionError):
    """A rule was broken; the message says which, by which event, and when."""


class World:
    """One simulated world. ``rng`` draws small things (latencies, the order of redeliveries), seeded by the plan."""

    def __init__(self, plan: Plan, clock: Any) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed ^ 0x5EED)
        self.facts: list[Fact] = []
        self.published: set[str] = set()
        self.handled: set[str] = set()
        self.outputs: set[str] = set()
        self.dead: set[str] = set()
        self.dropped: set[str] = set()
        self.failed: Counter[str] = Counter()
        self.rejected: set[str] = set()
        self.marked: dict[str, str] = {}
        self.running: dict[str, set[Process]] = {}
        self.broken: Broken | None = None
        self.away: dict[str, bool] = {}
        self.steps = 0
        self._clock = clock

    def breach(self, rule: str) -> None:
        """A rule was broken: noted (the first counts) and raised."""
        error = Broken(f"seed {self.plan.seed}, at {self._clock():.3f} s: {rule}")
        if self.broken is None:
            self.broken = error

    # The publisher

    def publish(self, id: str, key: str) -> None:
        if id not in self.published:
            self.published.add(id)
            self.facts.append(Fact("published", id, key))

    # Handlers

    def began(self, process: Process, id: str, key: str) -> None:
        """An attempt starts."""
        plan = self.plan
        self.steps += 1
        if len(process.running) >= plan.concurrency:
            self.breach(f"{process.name} runs more than {plan.concurrency} attempts at once")
        if plan.ordered and key in process.running.values():
            self.breach(f"{process.name} runs two events of key {key} at once")
        if plan.durable and not process.lapsed:
            if id in self.marked:
                self.breach(f"{id} is started again by {process.name}, after it was marked {self.marked[id]}")
            others = [other for other in self.running.get(id, ()) if other.alive and not other.lapsed]
            if others:
                self.breach(f"{id} runs in {others[0].name} and {process.name} at once, and both leases are alive")
        process.running[id] = key
        self.running.setdefault(id, set()).add(process)

    def ended(self, process: Process, id: str) -> None:
        process.running.pop(id, None)
        self.running.get(id, set()).discard(process)

    def finished(self, process: Process, id: str, key: str) -> None:
        """The handler returned."""
        self.handled.add(id)
        self.facts.append(Fact("handled", id, key, "", process.name))

    def rewound(self, process: Process, keys: set[str]) -> None:
        """This process has become the owner of these keys, perhaps not for the first time: they may go back."""
        for key in sorted(keys):
            self.facts.append(Fact("rewound", "", key, "", process.name))

    def drop(self, id: str) -> None:
        """The handler gives the event up, which ends it as a dead letter does."""
        self.dropped.add(id)
        self.facts.append(Fact("dead", id))

    # Stores, sink and source

    def done(self, id: str) -> bool:
        """Whether nothing more is owed to this event."""
        if id in self.dead or id in self.dropped:
            return True
        return id in self.handled and (not self.plan.publishes or id in self.outputs)

    def buried(self, id: str) -> None:
        """A dead letter has been stored."""
        if self.failed[id] < self.plan.attempts and id not in self.rejected:
            self.breach(f"{id} is a dead letter after {self.failed[id]} of {self.plan.attempts} failures")
        if id not in self.dead:
            self.dead.add(id)
            self.facts.append(Fact("dead", id))

    def mark(self, process: Process, id: str, state: str) -> None:
        """The ledger has taken a mark."""
        if not self.done(id):
            self.breach(f"{process.name} marks {id} as {state} before it is {self._owed(id)}")
        self.marked[id] = state

    def acknowledge(self, id: str) -> None:
        """The broker will not deliver this event again."""
        if not self.done(id):
            self.breach(f"{id} is acknowledged before it is {self._owed(id)}")

    def _owed(self, id: str) -> str:
        return "handled" if id not in self.handled else "published"
