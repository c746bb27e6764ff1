"""How much may be asked of a consumer: open pull requests against the engine's credit.

A pull is answered as messages arrive, so several can be open at once and none needs to be full: a lone message is
delivered at once. What is open never exceeds the credit. The server spreads messages over open pulls as it likes and says how
much of a pull was left when it ends early, so the sums are kept, not each pull.
"""

from __future__ import annotations

from typing import Final

from headrace.engine.source import Credit

__all__ = ["EXPIRES", "HEARTBEAT", "Window"]

#: Seconds that a pull stays open, and between the server's signs of life on a quiet one.
EXPIRES: Final = 30.0
HEARTBEAT: Final = 5.0
#: Bytes reserved for a message before sizes are known, at least.
_SHARE: Final = 16 * 1024


class Window:
    """Items and bytes that the server may still send. ``heard`` is the loop's time of the last sign of life."""

    __slots__ = ("average", "bytes", "heard", "items", "maximum_batch", "maximum_bytes")

    def __init__(self) -> None:
        self.items = 0
        self.bytes = 0.0
        self.average = 0.0
        self.heard = 0.0
        self.maximum_batch = 0
        self.maximum_bytes = 0

    def next(self, credit: Credit) -> tuple[int, int] | None:
        """The next pull's (messages, bytes), or ``None`` where what is open is enough for now.

        Small top-ups are left until a quarter of the credit is free: a pull costs the server more than a message.
        """
        items = credit.items - self.items
        if items <= 0 or (self.items and items * 4 < credit.items):
            return None
        left = credit.bytes - self.bytes
        if left < 1:
            if self.items:
                return None
            left = 1
        if self.maximum_batch:
            items = min(items, self.maximum_batch)
        size = min(left, items * max(_SHARE, 4 * self.average))
        if self.maximum_bytes:
            size = min(size, self.maximum_bytes)
        return items, max(1, int(size))

    def sent(self, items: int, size: int) -> None:
        """A pull went out."""
        self.items += items
        self.bytes += size

    def took(self, items: int, size: int) -> None:
        """Messages arrived; each uses up its share of the bytes, whatever its size: what is left of a pull's bytes ends
        with its last message."""
        if items >= self.items:
            self.items = 0
            self.bytes = 0.0
        else:
            self.bytes -= self.bytes / self.items * items
            self.items -= items
        if items:
            self.average += (size / items - self.average) * 0.2

    def ended(self, items: int) -> None:
        """A pull ended with so many messages undelivered."""
        if items >= self.items:
            self.items = 0
            self.bytes = 0.0
        else:
            self.bytes -= self.bytes / self.items * items
            self.items -= items

    def reset(self) -> None:
        """Nothing is open any more."""
        self.items = 0
        self.bytes = 0.0
