"""What crosses from the poll thread to the loop, in order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from headrace.errors import HeadraceError
from headrace.kafka.admin import Where
from headrace.kafka.committing import Commit
from headrace.kafka.partition import Partition

__all__ = ["Assigned", "Ended", "Failed", "Item", "Revocation", "Told"]


class Assigned:
    """Crosses to the loop: these partitions are ours now."""

    __slots__ = ("partitions",)

    def __init__(self, partitions: Sequence[Partition]) -> None:
        self.partitions = partitions


class Revocation:
    """Crosses to the loop: these partitions go to another member (``lost``: they have gone already).

    The loop calls `settled` with what is to be committed as the last word on each partition.
    """

    __slots__ = ("_event", "commits", "lost", "wheres")

    def __init__(self, wheres: Sequence[Where], *, lost: bool) -> None:
        self.wheres = wheres
        self.lost = lost
        self.commits: list[Commit] = []
        self._event = threading.Event()

    def settled(self, commits: list[Commit]) -> None:
        """Called by the loop when nothing of these partitions runs any more."""
        self.commits = commits
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Called by the poll thread."""
        return self._event.wait(seconds)


class Ended:
    """Crosses to the loop: the log of a partition has been read to its end, which is this offset."""

    __slots__ = ("offset", "where")

    def __init__(self, where: Where, offset: int) -> None:
        self.where = where
        self.offset = offset


class Failed:
    """Crosses to the loop: the source cannot go on."""

    __slots__ = ("error",)

    def __init__(self, error: HeadraceError) -> None:
        self.error = error


class Told:
    """Crosses to the loop: one sentence for people about what is amiss, empty when it is over."""

    __slots__ = ("sentence",)

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence


#: What crosses to the loop, in order; a list is a batch of messages.
Item = list[Any] | Assigned | Revocation | Ended | Failed | Told
