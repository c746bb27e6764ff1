"""Virtual time: the running loop's clock jumps to the next timer whenever nothing else is left to do.

Every timer of the loop is bent alike: the engine's, and ``asyncio.sleep`` or ``asyncio.timeout`` in a handler. Real I/O and
threads still take real time: while one is under way the clock does not jump.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from headrace.errors import ConfigurationError

__all__ = ["VirtualTime"]

#: Real seconds that the loop waits for I/O before it believes that nothing will come.
GRACE = 0.002


class _Selector:
    """Stands before the loop's selector. A wait for a timer becomes a jump."""

    def __init__(self, selector: Any, owner: VirtualTime) -> None:
        self._selector = selector
        self._owner = owner

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0 or self._owner.held:
            return self._selector.select(timeout)
        events = self._selector.select(min(GRACE, timeout))
        if not events:
            self._owner.offset += timeout
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._selector, name)


class VirtualTime:
    """Bends the running loop between `install` and `remove`.

    ``offset``: seconds that the virtual time is ahead. Raises `ConfigurationError` on a loop whose time cannot be bent.
    """

    def __init__(self) -> None:
        self.offset = 0.0
        self.held = 0
        self._loop: Any = None

    def now(self) -> float:
        """Seconds since the epoch, virtual."""
        return time.time() + self.offset

    def install(self) -> None:
        """Bend the running loop."""
        loop: Any = asyncio.get_running_loop()
        if not hasattr(loop, "_selector"):
            raise ConfigurationError(
                f"app.testing() bends the time of asyncio's own loop; {type(loop).__module__} has none to bend: "
                "run tests on the default loop"
            )
        self._loop = loop
        self._selector = loop._selector
        self._time = loop.time
        loop.time = lambda: self._time() + self.offset
        loop._selector = _Selector(self._selector, self)

    def remove(self) -> None:
        """Let time take its course again. The loop's clock stays ahead, for timers that are still set."""
        self._loop._selector = self._selector

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """No jump within this block: something outside the loop is at work."""
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1
