"""A stage of the pipeline behind the lanes: what is added while a batch is under way makes up the next batch.

So batches grow with the load and a lone item waits for nothing. A stage never drops: `process` repeats by itself what may
be repeated, and anything that it raises ends the app loudly (a defect, not an outage).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["Stage"]

T = TypeVar("T")


class Stage(Generic[T]):
    """``process`` is awaited with each batch, by up to ``parallel`` tasks at a time.

    ``items`` may be appended to directly on the hot path, followed by `wake` where ``waiting`` is set.
    """

    __slots__ = ("_busy", "_defect", "_idle", "_process", "_tasks", "items", "waiting")

    def __init__(
        self, process: Callable[[list[T]], Awaitable[None]], defect: Callable[[BaseException], None], parallel: int = 1
    ) -> None:
        self.items: list[T] = []
        self.waiting: list[asyncio.Future[None]] = []
        self._process = process
        self._defect = defect
        self._busy = 0
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()) for _ in range(parallel)]

    def add(self, item: T) -> None:
        """Queue one item."""
        self.items.append(item)
        if self.waiting:
            self.wake()

    def wake(self) -> None:
        """Let one waiting task take what is queued."""
        while self.waiting:
            future = self.waiting.pop()
            if not future.done():
                self._idle.clear()
                future.set_result(None)
                return

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self.items:
                if not self._busy:
                    self._idle.set()
                future: asyncio.Future[None] = loop.create_future()
                self.waiting.append(future)
                await future
                continue
            self._idle.clear()
            batch, self.items = self.items, []
            self._busy += 1
            try:
                await self._process(batch)
            except Exception as error:  # noqa: BLE001 - reported, and the app ends
                self._defect(error)
            finally:
                self._busy -= 1

    async def join(self) -> None:
        """Wait until nothing is queued or under way."""
        while self.items or self._busy:
            if self.items and self.waiting:
                self.wake()
            self._idle.clear()
            await self._idle.wait()

    async def close(self) -> None:
        """Cancel the tasks; what is queued stays unfinished (and unacknowledged)."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
