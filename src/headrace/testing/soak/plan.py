"""What happens when, drawn from the seed: every kind of fault comes before one comes again."""

from __future__ import annotations

import random
from typing import Final, NamedTuple

__all__ = ["BROKER_FAULTS", "FAULTS", "Plan", "Step"]

#: Faults of the app's processes, their dependency and by operators' hands; seconds that each lasts, from and to.
FAULTS: Final[dict[str, tuple[float, float]]] = {
    "worker killed": (0, 0),
    "run killed": (0.5, 5),
    "worker stopped": (3, 40),
    "steady worker stopped": (3, 20),
    "drained": (0.5, 3),
    "dependency down": (5, 30),
    "handlers paused": (3, 15),
    "deadly event": (0, 0),
    "letters replayed": (0, 0),
}
#: Faults of a broker that is ours.
BROKER_FAULTS: Final[dict[str, tuple[float, float]]] = {
    "broker killed": (0.2, 5),
    "broker restarted": (0.2, 5),
    "broker stopped": (2, 15),
}
#: Seconds from the end of one fault to the next, on average and at most; for a short run a share of it.
GAP: Final = 12.0
GAPS_A_RUN: Final = 40
#: The last part of a run without new faults.
QUIET: Final = 0.1


class Step(NamedTuple):
    """One fault: what it is, seconds that it lasts, and seconds of peace before it."""

    fault: str
    lasts: float
    after: float


class Plan:
    """The faults of one run, without end: `next` gives them one by one.

    Args:
        seed: the same seed draws the same faults.
        seconds: how long the run is; a short one has shorter faults.
        kinds: the faults to draw from.
    """

    def __init__(self, seed: int, seconds: float, kinds: dict[str, tuple[float, float]]) -> None:
        self._random = random.Random(seed)
        self._kinds = kinds
        self._gap = min(GAP, seconds / GAPS_A_RUN)
        self._longest = max(2.0, seconds / 15)
        self._round: list[str] = []
        self.until = seconds * (1 - QUIET)

    def next(self) -> Step:
        """The next fault."""
        if not self._round:
            self._round = list(self._kinds)
            self._random.shuffle(self._round)
        fault = self._round.pop()
        lasts = min(self._random.uniform(*self._kinds[fault]), self._longest)
        return Step(fault, round(lasts, 2), round(self._random.uniform(0.5, 1.5) * self._gap, 2))
