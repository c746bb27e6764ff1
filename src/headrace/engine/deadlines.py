"""Deadlines of suspended attempts: one timer for a handler, not one an event.

All attempts of a handler have the same timeout, so that their deadlines fall due in the order in which they started: a
dict in insertion order is the whole wheel, and the timer is armed for its first entry only.

A timer that fires much too late means that the process stood still: stopped and continued, or its loop blocked. How much of
their time the attempts had is not known, so they get it anew; else a whole handler would time out at once, look like an
outage, and open its circuit breaker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery

__all__ = ["Deadlines"]

#: Seconds that a timer may be late in a loop that is only busy.
BUSY = 5.0


class Deadlines:
    """``expired`` is called with each delivery whose attempt outlived the timeout (seconds)."""

    __slots__ = ("_due", "_expired", "_loop", "_timeout", "_timer")

    def __init__(self, timeout: float, expired: Callable[[Delivery], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._expired = expired
        self._due: dict[Delivery, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, delivery: Delivery) -> None:
        """The attempt of this delivery has started."""
        due = self._loop.time() + self._timeout
        self._due[delivery] = due
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._fire)

    def remove(self, delivery: Delivery) -> None:
        """It has ended. The timer stays: it finds nothing and is armed for the next."""
        self._due.pop(delivery, None)

    def running(self) -> list[Delivery]:
        """The deliveries whose attempts are suspended now, in the order of their starts."""
        return list(self._due)

    def _fire(self) -> None:
        assert self._timer is not None
        now = self._loop.time()
        stood_still = now - self._timer.when() > BUSY
        self._timer = None
        if stood_still:
            self._due = dict.fromkeys(self._due, now + self._timeout)
        late = []
        for delivery, due in self._due.items():
            if due > now:
                self._timer = self._loop.call_at(due, self._fire)
                break
            late.append(delivery)
        for delivery in late:
            del self._due[delivery]
            self._expired(delivery)
        for delivery in late:
            # Should it swallow its cancellation, it is asked again a timeout later; ``remove`` ends that.
            self._due[delivery] = now + self._timeout
        if late and self._timer is None:
            self._timer = self._loop.call_at(next(iter(self._due.values())), self._fire)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
