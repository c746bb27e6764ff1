"""How many attempts run in the whole app at once, over all its handlers."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from headrace.engine.suspicion import Solitude

if TYPE_CHECKING:
    from headrace.engine.runner import Runner

__all__ = ["Slots"]


class Slots:
    """Attempts running in the whole app, and their limit. Runners that found none wait in ``waiting``, and get one in turn: a
    handler with much to do does not keep the others from theirs. While a suspect runs alone the limit is 0."""

    __slots__ = ("limit", "solitude", "used", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.waiting: deque[Runner] = deque()
        self.solitude = Solitude(self)

    def give_back(self) -> None:
        """One is free: whoever waits has it now, before the one that gives it back can take it again."""
        self.used -= 1
        if not self.limit:
            self.solitude.wake()
        while self.waiting and self.used < self.limit:
            if self.waiting.popleft().grant():
                self.used += 1
