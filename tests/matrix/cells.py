"""Which cells there are: fail point × source × store, without those where the point is never passed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from headrace.engine.failpoints import POINTS

__all__ = ["CELLS", "SOURCES", "STORES", "Cell", "some"]

SOURCES = ("nats", "kafka", "kubernetes", "http-sync", "http-durable")
#: ``…-tx``: the handler takes part in the store's transaction.
STORES = ("memory", "sqlite", "postgresql", "redis", "sqlite-tx", "postgresql-tx")

#: Only a transaction commits, and only its outputs are relayed; its mark and its outputs have no step of their own.
_TRANSACTION = {"committed", "relayed"}
_NO_TRANSACTION = {"marked", "published"}
#: A sender that waits for its answer is told of a failure at once: nothing is parked, nothing is dead-lettered.
_NOT_ANSWERED = {"parked", "deadlettered"}
#: A watch's checkpoint knows what was finished: the ledger is asked only where its mark belongs to a transaction.
_LEDGER = {"claimed", "marked"}


@dataclass(frozen=True, slots=True)
class Cell:
    point: str
    source: str
    store: str

    def __str__(self) -> str:
        return f"{self.point}-{self.source}-{self.store}"

    @property
    def transactional(self) -> bool:
        return self.store.endswith("-tx")

    @property
    def backend(self) -> str:
        return self.store.removesuffix("-tx")

    @property
    def outputs(self) -> bool:
        """Whether the handler publishes, so that the point is passed."""
        return self.point in ("published", "relayed", "committed")

    @property
    def applies(self) -> bool:
        if self.point in (_NO_TRANSACTION if self.transactional else _TRANSACTION):
            return False
        if self.source == "http-sync" and self.point in _NOT_ANSWERED:
            return False
        if self.source == "kubernetes":
            return self.transactional or self.point not in _LEDGER
        return self.point != "checkpointed"


CELLS = [
    cell
    for cell in (Cell(point, source, store) for source in SOURCES for store in STORES for point in POINTS)
    if cell.applies
]


def some(seed: int) -> list[Cell]:
    """A few cells in which each point, each source and each store is found."""
    draw = random.Random(seed)
    cells = CELLS.copy()
    draw.shuffle(cells)
    wanted = {*POINTS, *SOURCES, *STORES}
    chosen: list[Cell] = []
    while wanted:
        best = max(cells, key=lambda cell: len(wanted & {cell.point, cell.source, cell.store}))
        wanted -= {best.point, best.source, best.store}
        chosen.append(best)
    return chosen
