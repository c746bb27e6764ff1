"""An event loop without a clock and without I/O: time jumps to the next timer, and a seed decides everything.

Two runs of the same coroutines on it take the same steps in the same order: no selector, no threads, no real time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["Stalled", "VirtualLoop"]


class Stalled(RuntimeError):
    """Nothing is left to run and no timer is set, and the main coroutine still waits."""


class _Nothing:
    """The selector: waiting is a jump of the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stalled("nothing is left to run, and the simulation has not ended")
        if timeout > 0:
            self._loop.elapsed += timeout
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """``elapsed``: virtual seconds since the loop was made; ``on_task`` is told of every task that is created."""

    def __init__(self) -> None:
        super().__init__()
        self.elapsed = 0.0
        self.on_task: Callable[[asyncio.Task[Any]], None] | None = None
        self._selector = _Nothing(self)
        self.set_task_factory(self._make)

    def time(self) -> float:
        return self.elapsed

    def _make(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        if self.on_task is not None:
            self.on_task(task)
        return task

    def _process_events(self, events: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """No other thread waits to wake this loop."""
