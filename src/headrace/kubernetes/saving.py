"""When a checkpoint is saved: in batches, before a handler hears of new objects, soon after something was finished, and when
the engine asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from headrace.engine.failpoints import passing
from headrace.errors import StoreUnavailable
from headrace.kubernetes.index import Index
from headrace.kubernetes.store import Delta

__all__ = ["Saving"]

#: Seconds between saves of the checkpoint under load; they grow to the second number while the store does not answer.
_EVERY: Final = (0.2, 2.0)
#: Seconds that handlers wait for a store that does not answer.
_AT_MOST: Final = 5.0


class Saving:
    """Saves the index of one watch.

    Args:
        index: what is saved.
        spawn: starts a task that ends with the source.
        ours: whether this replica may write it now; the next leader writes its own.
    """

    def __init__(self, index: Index, *, spawn: Callable[[Any], asyncio.Task[Any]], ours: Callable[[], bool]) -> None:
        self.index = index
        self.closed = False
        self._spawn = spawn
        self._ours = ours
        self._task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._finished = 0
        self._news = False
        self._away = False
        self._checkpointed = passing("checkpointed")

    def begin(self, delta: Delta) -> None:
        """A change is about to be handed over."""
        self._news = self.index.begin(delta) or self._news

    async def begun(self) -> None:
        """Save first where some of what is about to be handed over exists by no record yet: what a handler has heard of must
        not vanish without a word, should the process die now."""
        if not self._news:
            return
        self._news = False
        if self._away:
            self.soon()
            return
        try:
            async with asyncio.timeout(_AT_MOST):
                await self.now()
        except BaseException as error:
            if not isinstance(error, (StoreUnavailable, TimeoutError)):
                self._news = True  # nothing is handed over; whoever comes next has to save it first
                raise
            # Handlers go on without the store, which the engine's own flush reports; nobody waits until it is back.
            self._away = True
            self.soon()

    def finish(self, delta: Delta) -> None:
        """A change was handled to its end. It is saved when the engine flushes what was settled; where nothing was, by
        `soon`."""
        self.index.finish(delta)
        self._finished += 1

    def soon(self) -> None:
        """Save within moments, where there is something to save; as often as it takes, and also what changes meanwhile."""
        if self._task is None and not self.closed and self.index.changed:
            self._task = self._spawn(self._later())

    async def now(self) -> None:
        """Save. Raises `StoreUnavailable`; then nothing is forgotten and a later call saves it."""
        if not self._ours():
            return
        async with self._lock:
            finished, self._finished = self._finished, 0
            try:
                await self.index.save()
                self._away = False
            except BaseException:
                self._finished += finished
                raise
        if self._checkpointed is not None and finished:
            self._checkpointed(finished)

    async def _later(self) -> None:
        pause, longest = _EVERY
        try:
            while True:
                await asyncio.sleep(pause)
                try:
                    await self.now()
                except StoreUnavailable:  # the engine's own flush says so
                    pause = min(pause * 2, longest)
                    continue
                pause, _ = _EVERY
                # What is not ours to save any more is owed by nobody: the next leader lists anew.
                if not self.index.changed or not self._ours():
                    return
        finally:
            self._task = None
