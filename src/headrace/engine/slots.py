"""How many attempts run in the whole app at once, over all its handlers."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from headrace.engine.suspicion import Solitude

if TYPE_CHECKING:
    from headrace.engine.runner import Runner

__all__ = ["Slots"]


class Slots:
    """Attempts running in the whole app, and their limit. Runners that found none wait in ``waiting``."""

    __slots__ = ("limit", "solitude", "used", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.waiting: deque[Runner | Solitude] = deque()
        self.solitude = Solitude(self)
