"""Outputs that their sink has not taken yet: asked about again, each in its own time, until they are confirmed or refused.

They keep nothing else: what other events give rise to meanwhile is published beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from headrace.engine.sink import Publication

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery
    from headrace.engine.outcomes import Outcomes

__all__ = ["Attempt", "Unconfirmed"]

#: Seconds before a sink is asked again, doubled each time up to the second number; what it asks for itself wins.
_PAUSE: Final = (0.1, 2.0)
#: Seconds after which a delivery that its source has lost is noticed.
_NOTICE: Final = 1.0

Attempt = Sequence[tuple["Delivery", Publication]]


class _Waiting:
    """Of one delivery: what its sink has not taken, when (the loop's time) to ask again, and until when its sender waits."""

    __slots__ = ("due", "patience", "pause", "publications")

    def __init__(self, publications: list[Publication], patience: float) -> None:
        self.publications = publications
        self.patience = patience
        self.pause = _PAUSE[0]
        self.due = 0.0


class Unconfirmed:
    """Those of one handler.

    Parameters:
        publish: one attempt at these; what is confirmed or refused for good it settles, and the rest comes to `add` again.
        settle: told of deliveries that were lost while they waited.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        publish: Callable[[Attempt], Awaitable[None]],
        settle: Callable[[list[Delivery]], None],
    ) -> None:
        self._outcomes = outcomes
        self._publish = publish
        self._settle = settle
        self._waiting: dict[Delivery, _Waiting] = {}
        self._asked: dict[Delivery, _Waiting] = {}
        self._sooner = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def add(self, delivery: Delivery, publications: list[Publication], retry_after: float) -> None:
        """Ask again about these of a delivery. ``retry_after``: seconds, as the sink asked for; 0 where it did not."""
        outcomes = self._outcomes
        waiting = self._asked.pop(delivery, None)
        if waiting is None:
            waiting = _Waiting(publications, outcomes.patience_ends())
        else:
            waiting.publications = publications
        now = self._loop.time()
        if now + retry_after >= waiting.patience:
            outcomes.answer_senders((delivery,), outcomes.sink_trouble, retry_after or 1.0)
        waiting.due = now + (retry_after or waiting.pause)
        waiting.pause = min(2 * waiting.pause, _PAUSE[1])
        self._waiting[delivery] = waiting
        self._sooner.set()
        if self._task is None:
            self._task = self._loop.create_task(self._run())
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._outcomes.runner.runtime.defect(task.exception())

    async def _run(self) -> None:
        while self._waiting:
            self._sooner.clear()
            # What its source has lost is its new owner's to publish: its claim goes back now.
            lost = [delivery for delivery in self._waiting if delivery.voided is not None]
            for delivery in lost:
                del self._waiting[delivery]
            self._settle(lost)
            now = self._loop.time()
            due = {delivery: waiting for delivery, waiting in self._waiting.items() if waiting.due <= now}
            if due:
                for delivery in due:
                    del self._waiting[delivery]
                self._asked = due
                await self._publish([(one, publication) for one, w in due.items() for publication in w.publications])
                self._asked = {}
            elif self._waiting:
                next_due = min(waiting.due for waiting in self._waiting.values())
                await _happens(self._sooner, min(next_due - now, _NOTICE))
        self._outcomes.sink_trouble = ""
        self._task = None

    async def join(self) -> None:
        """Wait until there are none."""
        while self._task is not None and not self._task.done():
            await asyncio.wait((self._task,))

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


async def _happens(event: asyncio.Event, within: float) -> Any:
    """Wait for an event, but no longer than so many seconds."""
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait((waiting,), timeout=within)
    waiting.cancel()
