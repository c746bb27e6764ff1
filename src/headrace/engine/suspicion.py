"""Suspects: deliveries that a process may have died of (delivery.md, Retry).

After an unclean end, whatever the source had delivered before is a suspect here: its start is recorded durably before it
runs. From the second recorded start on it runs alone in the process, so that a poison event which takes the process with
it is told from its neighbours: they end, and are forgotten; it does not, and its recorded starts are its attempts.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from headrace.engine.checkpoints import Suspects
from headrace.engine.stage import Stage
from headrace.errors import WorkerDied

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery
    from headrace.engine.ledger import Identity
    from headrace.engine.runner import Runner
    from headrace.engine.slots import Slots

__all__ = ["Solitude", "Suspicion"]

log = logging.getLogger("headrace.engine")

#: Recorded starts, this one included, from which a suspect runs alone.
ALONE_FROM = 2
#: Events that ended well in this process and are not suspected again.
CLEARED = 10_000


class Solitude:
    """Lets one delivery at a time run with nothing else in the process."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._queue: deque[tuple[Runner, Delivery]] = deque()
        self._current: tuple[Runner, Delivery] | None = None
        self._task: asyncio.Task[None] | None = None
        self._all_free: asyncio.Future[None] | None = None

    def add(self, runner: Runner, delivery: Delivery) -> None:
        """Run it alone as soon as what runs has ended and its turn has come."""
        self._queue.append((runner, delivery))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve())
            self._task.add_done_callback(self._served)

    def stop(self) -> list[Delivery]:
        """For the drain: what has not begun."""
        if self._current is not None:
            self._queue.appendleft(self._current)
            self._current = None
        unstarted = [delivery for _, delivery in self._queue]
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()
        return unstarted

    def _served(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and self._current is not None:
            self._current[0].runtime.defect(task.exception())

    async def _serve(self) -> None:
        slots = self._slots
        limit, slots.limit = slots.limit, 0
        try:
            while self._queue:
                self._current = runner, delivery = self._queue.popleft()
                assert runner.suspicion is not None
                await self._wait_until_free()
                ended = await runner.suspicion.begin(delivery)
                self._current = None
                if ended is not None:
                    runner.let_pass(delivery)
                    await ended.wait()
        finally:
            self._task = None
            slots.limit = limit
            waiting, slots.waiting = slots.waiting, deque()
            for one in waiting:
                one.wake()

    async def _wait_until_free(self) -> None:
        while self._slots.used:
            self._all_free = asyncio.get_running_loop().create_future()
            await self._all_free

    def wake(self) -> None:
        """A slot was given back."""
        if self._all_free is not None and not self._all_free.done():
            self._all_free.set_result(None)


class Suspicion:
    """The suspects of one handler. ``under_watch``: those whose recorded attempt has not ended yet."""

    def __init__(self, runner: Runner, suspects: Suspects) -> None:
        self._runner = runner
        self._suspects = suspects
        self._cleared: dict[Identity, None] = {}
        self.under_watch: dict[Delivery, asyncio.Event] = {}
        defect = runner.runtime.defect
        self.starts: Stage[Delivery] = Stage(self._sort, defect)
        self.ends: Stage[Identity] = Stage(self._forget, defect)

    def is_cleared(self, identity: Identity) -> bool:
        """Whether what was delivered before the unclean end (`Delivery.redelivered`) is known to be harmless."""
        return identity in self._cleared

    def ended(self, delivery: Delivery) -> None:
        """Its attempt is over and the process lives: it is no suspect any more."""
        watched = self.under_watch.pop(delivery, None)
        if watched is None:
            return
        watched.set()
        identity = _identity(delivery)
        self._cleared[identity] = None
        if len(self._cleared) > CLEARED:
            del self._cleared[next(iter(self._cleared))]
        self.ends.add(identity)

    async def begin(self, delivery: Delivery) -> asyncio.Event | None:
        """Record the start of one that runs alone now. The event is set when its attempt has ended; ``None``: it is not
        to run any more."""
        runner = self._runner
        name = runner.handler.name
        identity = _identity(delivery)
        if delivery.voided is None:
            (count,) = await self._recorded([identity], write=True)
            watched = self.under_watch[delivery] = asyncio.Event()
            delivery._claim = None if delivery.voided is None else "void"
            delivery.attempt = max(delivery.attempt, count - 1)
            log.warning("handler %s: event %s runs alone: start %d after an unclean end", name, identity[1], count)
            return watched
        runner.outcomes.voided(delivery)
        return None

    async def _sort(self, batch: list[Delivery]) -> None:
        """Those without a recorded start run with the others, once it is recorded; the rest runs alone."""
        runner = self._runner
        fresh: list[Delivery] = []
        counts = await self._recorded([_identity(delivery) for delivery in batch], write=False)
        for delivery, count in zip(batch, counts, strict=True):
            if self._is_over(delivery):
                continue
            if count >= runner.handler.retry.attempts:
                self._give_up(delivery, count)
            elif count + 1 >= ALONE_FROM:
                runner.runtime.slots.solitude.add(runner, delivery)
            else:
                fresh.append(delivery)
        if not fresh:
            return
        await self._recorded([_identity(delivery) for delivery in fresh], write=True)
        for delivery in fresh:
            if not self._is_over(delivery):
                self.under_watch[delivery] = asyncio.Event()
                delivery._claim = None
                runner.ready.append(delivery)
        runner.wake()

    def _is_over(self, delivery: Delivery) -> bool:
        if delivery.voided is not None:
            self._runner.outcomes.voided(delivery)
        elif self._runner.stopping:
            self._runner.runtime.hand_back(delivery)
        else:
            return False
        return True

    def _give_up(self, delivery: Delivery, count: int) -> None:
        """It has taken the process with it as often as the handler has attempts."""
        runner = self._runner
        name = runner.handler.name
        delivery._claim = None
        delivery.attempt = count
        self.under_watch[delivery] = asyncio.Event()
        log.error("handler %s: event %s ended the process %d times", name, _identity(delivery)[1], count)
        runner.outcomes.failures.exhausted(
            delivery, WorkerDied(f"the process ended {count} times while the handler {name!r} ran with this event")
        )

    async def _recorded(self, identities: list[Identity], *, write: bool) -> list[int]:
        name, suspects = self._runner.handler.name, self._suspects
        call = suspects.started if write else suspects.recorded
        return list(await self._runner.outcomes.stored("suspect", lambda: call(name, identities)))

    async def _forget(self, batch: list[Identity]) -> None:
        name = self._runner.handler.name
        await self._runner.outcomes.stored("suspect", lambda: self._suspects.finished(name, batch))

    async def close(self) -> None:
        """End the stages."""
        await self.starts.close()
        await self.ends.close()


def _identity(delivery: Delivery) -> Identity:
    """As the ledger knows it; where there is none, as the event's source does."""
    if delivery._identity is not None:
        return delivery._identity
    event = delivery.event
    assert event is not None
    return (event.source, event.id)
