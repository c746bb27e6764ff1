"""The two times of the engine: the loop's monotonic time, and the wall's. A virtual clock replaces both for tests."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """``now()``: seconds since the epoch. The monotonic time is always the running loop's ``time()``, so that a test that
    bends the loop's time bends every timer of the engine."""

    __slots__ = ("now",)

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.now = now
