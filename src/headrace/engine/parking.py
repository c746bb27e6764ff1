"""Parked lanes: deliveries that wait for a retry, and everything behind them, outside the prefetch.

Their number and bytes have a budget of their own; while it is full the handler's sources pause, and health names the key
that holds the most.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery
    from headrace.engine.source import Credit

__all__ = ["Parking"]


class _Place:
    __slots__ = ("bytes", "due", "items", "timer")

    def __init__(self, due: float) -> None:
        self.due = due
        self.items = 0
        self.bytes = 0
        self.timer: asyncio.TimerHandle | None = None


class Parking:
    """``budget``: items and bytes; ``items`` and ``bytes``: what is parked now. Keys of ``places`` are lane heads."""

    __slots__ = ("budget", "bytes", "heads", "items", "places")

    def __init__(self, budget: Credit) -> None:
        self.budget = budget
        self.items = 0
        self.bytes = 0
        self.places: dict[Delivery, _Place] = {}
        self.heads: dict[str, Delivery] = {}

    def park(self, head: Delivery, due: float) -> tuple[int, int]:
        """Park a lane's head with all behind it until ``due`` (loop time). Returns items and bytes that moved here."""
        place = _Place(due)
        follower: Delivery | None = head
        while follower is not None:
            place.items += 1
            place.bytes += follower.size
            follower = follower._next
        self.items += place.items
        self.bytes += place.bytes
        self.places[head] = place
        if head._lane is not None:
            self.heads[head._lane] = head
        return place.items, place.bytes

    def arrived(self, head: Delivery, delivery: Delivery) -> None:
        """A delivery came in behind a parked head."""
        place = self.places[head]
        place.items += 1
        place.bytes += delivery.size
        self.items += 1
        self.bytes += delivery.size

    def leave(self, head: Delivery) -> tuple[int, int]:
        """Take a lane out again. Returns items and bytes that moved back."""
        place = self.places.pop(head)
        if head._lane is not None:
            self.heads.pop(head._lane, None)
        if place.timer is not None:
            place.timer.cancel()
        self.items -= place.items
        self.bytes -= place.bytes
        return place.items, place.bytes

    @property
    def full(self) -> bool:
        """Whether the budget is used up."""
        return self.items >= self.budget.items or self.bytes >= self.budget.bytes

    def room(self) -> tuple[int, int]:
        """Items and bytes left in the budget."""
        return self.budget.items - self.items, self.budget.bytes - self.bytes

    def largest(self) -> str:
        """The key that holds the most, for health; empty where nothing is parked under a key."""
        place = max(self.places, key=lambda head: self.places[head].items, default=None)
        return "" if place is None or place._lane is None else place._lane
