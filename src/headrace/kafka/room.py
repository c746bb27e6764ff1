"""How much may cross from the poll thread to the loop before the loop has taken what crossed before."""

from __future__ import annotations

import threading

__all__ = ["Room"]


class Room:
    """``items`` and ``size``: messages and bytes that may be crossed and not taken. ``space`` is set where half is free again.

    Each number is written by one thread alone: ``crossed…`` by the poll thread, ``taken…`` by the loop.
    """

    def __init__(self, items: int, size: int, space: threading.Event) -> None:
        self.crossed = 0
        self.crossed_bytes = 0
        self.taken = 0
        self.taken_bytes = 0
        self._items = items
        self._size = size
        self._space = space

    def fill(self, items: int, size: int) -> None:
        """The poll thread hands messages over."""
        self.crossed += items
        self.crossed_bytes += size

    def took(self, items: int, size: int) -> None:
        """The loop took messages out of its buffer (negative: it put them back)."""
        self.taken += items
        self.taken_bytes += size
        if self.crossed - self.taken <= self._items // 2:
            self._space.set()

    @property
    def free(self) -> bool:
        """Whether the loop would take more."""
        return self.crossed - self.taken < self._items and self.crossed_bytes - self.taken_bytes < self._size

    def ask(self, limit: int) -> int:
        """How many messages to take at once, at most ``limit``: not many more than there is room for in bytes, judged by
        those before."""
        size = self.crossed_bytes // self.crossed if self.crossed else 1024
        return max(1, min(limit, (self._size - self.crossed_bytes + self.taken_bytes) // max(size, 1)))
