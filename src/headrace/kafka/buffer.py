"""Records that have crossed from the poll thread and are not handed over yet, in order, as runs of one partition each.

A fetch brings many records of one partition in a row: what is asked of each of them is asked for the run at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from operator import methodcaller
from typing import Any, Final

from headrace.kafka.admin import Where

__all__ = ["Buffer", "Run", "offsets_of"]

_partition: Final = methodcaller("partition")
_topic: Final = methodcaller("topic")
_offset: Final = methodcaller("offset")


def offsets_of(messages: Iterable[Any]) -> list[int]:
    """The offset of each record."""
    return list(map(_offset, messages))


class Run:
    """Records of one partition; those before ``at`` have been taken."""

    __slots__ = ("at", "messages", "where")

    def __init__(self, where: Where, messages: Sequence[Any]) -> None:
        self.where = where
        self.messages = messages
        self.at = 0

    def left(self) -> Sequence[Any]:
        """What has not been taken."""
        return self.messages[self.at :] if self.at else self.messages


class Buffer:
    """``topic``: the one that all records are of; ``None`` where they are of several."""

    __slots__ = ("_only", "runs")

    def __init__(self, topic: str | None) -> None:
        self.runs: deque[Run] = deque()
        self._only = topic

    def __bool__(self) -> bool:
        return bool(self.runs)

    def add(self, messages: Sequence[Any]) -> None:
        """Append what one poll brought."""
        for number, some in groupby(messages, _partition):
            run = list(some)
            if self._only is not None:
                self.runs.append(Run((self._only, number), run))
            else:
                self.runs.extend(Run((topic, number), list(part)) for topic, part in groupby(run, _topic))

    def put_back(self, where: Where, messages: Sequence[Any]) -> None:
        """These come next."""
        self.runs.appendleft(Run(where, messages))

    def last(self, where: Where) -> Any:
        """The last record of a partition, or ``None``."""
        return next((run.messages[-1] for run in reversed(self.runs) if run.where == where), None)

    def remove(self, wheres: Collection[Where]) -> list[Any]:
        """Take out everything of these partitions, in order."""
        removed = [message for run in self.runs if run.where in wheres for message in run.left()]
        if removed:
            kept = [run for run in self.runs if run.where not in wheres]
            self.runs.clear()
            self.runs.extend(kept)
        return removed
