"""How a source lets partitions go: what has not begun is void, what runs gets its time, then the last word is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from headrace.kafka.admin import Where
from headrace.kafka.commits import Commits
from headrace.kafka.committing import Commit
from headrace.kafka.crossing import Revocation
from headrace.kafka.ownership import GRACE
from headrace.kafka.partition import Partition

__all__ = ["Farewells"]

#: Seconds that a member which leaves waits for what is still open: the engine has ended before what it could end.
_LAST_GRACE: Final = 0.3


class Farewells:
    """Those of one source. On the loop."""

    def __init__(self, commits: Commits) -> None:
        self._commits = commits
        self._under_way: dict[Revocation, tuple[Sequence[Partition], asyncio.TimerHandle]] = {}
        self._quiet: asyncio.Future[None] | None = None
        self._said: Sequence[Commit] = ()

    def give_up(self, revocation: Revocation, partitions: Sequence[Partition]) -> None:
        """Void what has not begun, all where the partitions are lost, and answer when nothing runs any more."""
        reason = "its partition was lost" if revocation.lost else "its partition was revoked"
        if revocation.lost:
            for partition in partitions:
                _void_all(partition, reason)
        _void_unbegun(partitions, reason)
        if not any(partition.open for partition in partitions):
            self._settle(revocation, partitions)
            return
        timer = asyncio.get_running_loop().call_later(GRACE, self._end_grace, revocation)
        self._under_way[revocation] = (partitions, timer)

    async def settle_all(self, partitions: Mapping[Where, Partition]) -> None:
        """End what runs and commit the last word on every partition, as a member that polls on: during a rebalance the group
        refuses commits for a while, and one that leaves has no time to try again."""
        _void_unbegun(partitions.values(), "its partition is given back")
        loop = asyncio.get_running_loop()
        end = loop.time() + _LAST_GRACE
        while any(partition.open for partition in partitions.values()) and loop.time() < end:
            self._quiet = loop.create_future()
            await asyncio.wait([self._quiet], timeout=end - loop.time())
        for partition in partitions.values():
            _void_all(partition, "its partition is given back and the attempt did not end in time")
        self._said = await self._commits.say_last()

    def emptied(self, partition: Partition) -> None:
        """Nothing of a partition runs any more."""
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)
        if partition.gone and self._under_way:
            self._look()

    def _end_grace(self, revocation: Revocation) -> None:
        for partition in self._under_way[revocation][0]:
            _void_all(partition, "its partition was revoked and the attempt did not end in time")
        self._look()

    def _look(self) -> None:
        for revocation, (partitions, timer) in list(self._under_way.items()):
            if not any(partition.open for partition in partitions):
                del self._under_way[revocation]
                timer.cancel()
                self._settle(revocation, partitions)

    def _settle(self, revocation: Revocation, partitions: Sequence[Partition]) -> None:
        texts = [] if revocation.lost else [self._commits.last_text(partition) for partition in partitions]
        revocation.settled([text for text in texts if text not in self._said])


def _void_unbegun(partitions: Iterable[Partition], reason: str) -> None:
    for partition in partitions:
        for token, delivery in list(partition.open.items()):
            if not delivery.under_way:
                del partition.open[token]
                delivery.void(reason)


def _void_all(partition: Partition, reason: str) -> None:
    for delivery in list(partition.open.values()):
        delivery.void(reason)
    partition.open.clear()
