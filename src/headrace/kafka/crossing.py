"""What crosses from the poll thread to the loop, in order."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from headrace.errors import HeadraceError
from headrace.kafka.admin import Where
from headrace.kafka.committing import Commit
from headrace.kafka.partition import Partition

if TYPE_CHECKING:
    import asyncio

__all__ = ["Assigned", "Ended", "Failed", "Inbox", "Item", "Revocation", "Told"]

log = logging.getLogger("headrace.kafka")

#: Seconds in which the same sentence is logged once.
_NOW_AND_THEN: Final = 30.0


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


class Inbox:
    """What has crossed and was not taken yet: appended by the poll thread, taken by the loop.

    Parameters:
        wake: called on the loop when there is something after there was nothing.
        unheard: called by the poll thread where the loop is closed: nobody is left to hand anything to.
    """

    def __init__(
        self, name: str, loop: asyncio.AbstractEventLoop, *, wake: Callable[[], None], unheard: Callable[[], None]
    ) -> None:
        self.items: deque[Item] = deque()
        self._name = name
        self._loop = loop
        self._wake = wake
        self._unheard = unheard
        self._told: dict[str, float] = {}

    def post(self, item: Item) -> None:
        """Have it cross."""
        self.items.append(item)
        # Looked at afterwards: the loop may take the last item before this one at any moment, and each item is then either
        # seen by it there, or the first here. A wake-up too many finds nothing.
        if len(self.items) == 1:
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:
                self._unheard()

    def tell(self, sentence: str) -> None:
        """Tell people; the same sentence is a warning now and then only."""
        now = time.monotonic()
        if now - self._told.get(sentence, -_NOW_AND_THEN) >= _NOW_AND_THEN:
            self._told[sentence] = now
            log.warning("%s: %s", self._name, sentence)
        self.post(Told(sentence))
