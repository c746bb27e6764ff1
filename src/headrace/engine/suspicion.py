"""Suspects: deliveries that a process may have died of (delivery.md, Retry).

After an unclean end, whatever the source had delivered before is a suspect here: its start is recorded durably before it
runs. From the second recorded start on it runs alone in the process, so that a poison event which takes the process with
it is told from its neighbours: they end, and are forgotten; it does not, and its recorded starts are its attempts.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from headrace.engine.checkpoints import Suspects
from headrace.engine.stage import Stage
from headrace.errors import WorkerDied

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery
    from headrace.engine.ledger import Identity
    from headrace.engine.runner import Runner, Slots

__all__ = ["Solitude", "Suspicion"]

log = logging.getLogger("headrace.engine")

#: Recorded starts from which a suspect runs alone.
ALONE_FROM = 2
#: Events that ended well in this process and are not suspected again.
CLEARED = 10_000


class Solitude:
    """Lets one delivery at a time run with nothing else in the process. It stands in `Slots.waiting` like a runner."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._queue: deque[tuple[Runner, Delivery]] = deque()
        self._limit = slots.limit
        self._current: tuple[Runner, Delivery] | None = None
        self._begun = False

    def add(self, runner: Runner, delivery: Delivery) -> None:
        """Run it alone as soon as what runs has ended."""
        self._queue.append((runner, delivery))
        if self._current is None:
            self._next()

    def drop(self, runner: Runner) -> list[Delivery]:
        """For the drain: what of this runner has not begun."""
        mine = [delivery for owner, delivery in self._queue if owner is runner]
        self._queue = deque(entry for entry in self._queue if entry[0] is not runner)
        if self._current is not None and self._current[0] is runner and not self._begun:
            # Not begun: either it stands at the head of the ready lanes, where the drain finds it, or it waits here.
            if runner.let_through is None:
                mine.append(self._current[1])
            runner.let_through = None
            self._next()
        return mine

    def _next(self) -> None:
        slots = self._slots
        if not self._queue:
            if self._current is not None:
                self._current = None
                slots.limit = self._limit
                waiting, slots.waiting = slots.waiting, deque()
                for runner in waiting:
                    runner.wake()
            return
        if self._current is None:
            self._limit = slots.limit
            slots.limit = 0
        self._current = self._queue.popleft()
        self._begun = False
        slots.waiting.appendleft(self)
        if not slots.used:
            slots.waiting.popleft()
            self.wake()

    def wake(self) -> None:
        """A slot was given back: what ran before has ended, or the one that ran alone has."""
        slots = self._slots
        if slots.used:
            slots.waiting.appendleft(self)
        elif self._current is not None and not self._begun:
            runner, delivery = self._current
            self._begun = True
            slots.waiting.appendleft(self)
            runner.let_through = delivery
            runner.ready.appendleft(delivery)
            runner.wake()
        else:
            self._next()


class Suspicion:
    """The suspects of one handler. ``under_watch``: those whose recorded attempt has not ended yet."""

    def __init__(self, runner: Runner, suspects: Suspects) -> None:
        self._runner = runner
        self._suspects = suspects
        self.under_watch: dict[Delivery, Identity] = {}
        self._cleared: dict[Identity, None] = {}
        defect = runner.runtime.defect
        self.starts: Stage[Delivery] = Stage(self._record, defect)
        self.ends: Stage[Identity] = Stage(self._forget, defect)

    def is_suspect(self, delivery: Delivery, identity: Identity) -> bool:
        """Delivered before the unclean end, and not known to be harmless."""
        return delivery.redelivered and identity not in self._cleared

    def ended(self, delivery: Delivery) -> None:
        """Its attempt is over and the process lives: it is no suspect any more."""
        identity = self.under_watch.pop(delivery, None)
        if identity is not None:
            self._clear(identity)

    def _clear(self, identity: Identity) -> None:
        self._cleared[identity] = None
        if len(self._cleared) > CLEARED:
            del self._cleared[next(iter(self._cleared))]
        self.ends.add(identity)

    async def _record(self, batch: list[Delivery]) -> None:
        runner = self._runner
        name = runner.handler.name
        ready: list[Delivery] = []
        identities: list[Identity] = []
        for delivery in batch:
            if delivery.voided is None and not runner.stopping and delivery._identity is not None:
                ready.append(delivery)
                identities.append(delivery._identity)
            elif delivery.voided is not None:
                runner.outcomes.voided(delivery)
            else:
                runner.runtime.hand_back(delivery)
        if not ready:
            return
        counts = await runner.outcomes.stored("suspect", lambda: self._suspects.started(name, identities))
        for delivery, identity, count in zip(ready, identities, counts, strict=True):
            self.under_watch[delivery] = identity
            delivery._claim = None
            if delivery.voided is not None:
                self.ended(delivery)
                runner.outcomes.voided(delivery)
            elif runner.stopping:
                self.ended(delivery)
                runner.runtime.hand_back(delivery)
            elif count > runner.handler.retry.attempts:
                delivery.attempt = count - 1
                log.error("handler %s: event %s ended the process %d times", name, identity[1], count - 1)
                runner.outcomes.exhausted(
                    delivery,
                    WorkerDied(f"the process ended {count - 1} times while the handler {name!r} ran with this event"),
                )
            else:
                delivery.attempt = max(delivery.attempt, count - 1)
                if count >= ALONE_FROM:
                    log.warning(
                        "handler %s: event %s runs alone: start %d after an unclean end", name, identity[1], count
                    )
                    runner.runtime.solitude.add(runner, delivery)
                else:
                    runner.ready.append(delivery)
        if runner.ready:
            runner.wake()

    async def _forget(self, batch: list[Identity]) -> None:
        name = self._runner.handler.name
        await self._runner.outcomes.stored("suspect", lambda: self._suspects.finished(name, batch))

    async def close(self) -> None:
        """End the stages."""
        await self.starts.close()
        await self.ends.close()
