"""Commits of one source: one under way at a time, made from the state of the moment in which it starts.

The poll thread makes them (`Committing`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

from headrace.errors import ConnectionFailed, HeadraceError
from headrace.kafka.admin import Where
from headrace.kafka.committing import EVERY, METADATA_TOO_LARGE, Commit
from headrace.kafka.completed import LIMIT, encode
from headrace.kafka.faults import code_of, text_of
from headrace.kafka.group import Group
from headrace.kafka.partition import Partition

__all__ = ["Commits"]

log = logging.getLogger("headrace.kafka")

#: Below this there is no room for a map, and nothing smaller is tried.
_LEAST_METADATA: Final = 200
#: Seconds after which a flush reports that the broker has not confirmed yet; commits go on being tried.
_FLUSH_LIMIT: Final = 5.0
#: Seconds for the last commit of a source that closes: a join under way holds it up.
_LAST_LIMIT: Final = 8.0


class Commits:
    """``partitions``: those assigned, kept by the source. ``committed`` is called after each commit."""

    def __init__(self, name: str, partitions: dict[Where, Partition], committed: Callable[[], None]) -> None:
        self.metadata_limit = LIMIT
        #: Tells what this source announced from what others did.
        self.owner = secrets.token_urlsafe(6)
        self.group: Group | None = None
        self._name = name
        self._partitions = partitions
        self._committed = committed
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._closed = False

    def soon(self) -> None:
        """Have a commit made of the state at its start; where one is under way, another follows it."""
        if self._task is not None:
            self._again = True
        elif not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def _dirty(self) -> bool:
        return any(partition.dirty for partition in self._partitions.values())

    async def flush(self) -> None:
        """Wait until what was settled so far is committed.

        Raises:
            ConnectionFailed: it was not within some seconds; it is tried on.
        """
        try:
            async with asyncio.timeout(_FLUSH_LIMIT):
                while not self._closed and (self._dirty or self._task is not None):
                    self.soon()
                    if self._task is not None:
                        await asyncio.shield(self._task)
        except TimeoutError:
            raise ConnectionFailed(
                f"{self._name}: the broker has not confirmed the commits of {_FLUSH_LIMIT:g} s"
            ) from None

    async def say_last(self) -> Sequence[Commit]:
        """After `close`, when nothing runs any more: commit every partition for good. What was confirmed in time."""
        assert self.group is not None
        left = {partition.key: (partition, self.last_text(partition)) for partition in self._partitions.values()}
        said: list[Commit] = []
        why = "no answer"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_LIMIT):
                while left:
                    errors = await self._ask(list(left.values()))
                    done = [where for where in left if where not in errors and EVERY not in errors]
                    said.extend(left.pop(where)[1] for where in done)
                    if not left or self.group.ended:
                        break
                    why = text_of(next(iter(errors.values())))
                    await asyncio.sleep(0.05)
        lost = sum(partition.dirty for partition, _ in left.values())
        if lost:
            log.warning("%s: the last completions of %d partitions were not committed: %s", self._name, lost, why)
        return said

    async def _ask(self, commits: Sequence[tuple[Partition, Commit]]) -> dict[Where, Any]:
        """Have the poll thread commit these, but for partitions that went to another member meanwhile: their last word was
        said, and the successor's commit must not be overwritten. Errors by partition."""
        group = self.group
        assert group is not None

        def ours() -> list[Commit]:
            return [text for partition, text in commits if group.ownership.assigned.get(partition.key) is partition]

        try:
            return await asyncio.wrap_future(group.commit(ours))
        except HeadraceError as error:
            return {EVERY: error}

    async def close(self) -> None:
        """Make no more commits."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = 0.1
        try:
            while True:
                self._again = False
                confirmed = await self._once()
                self._committed()
                if not confirmed:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 2.0)
                    if self._dirty:
                        continue
                pause = 0.1
                if not self._again:
                    return
        finally:
            self._task = None

    async def _once(self) -> bool:
        """One commit of every partition that changed. ``False``: something of it is to be tried again."""
        batch: list[tuple[Partition, int]] = []
        commits: list[tuple[Partition, Commit]] = []
        for partition in self._partitions.values():
            if partition.dirty or (partition.blocked and partition.why == "commit"):
                reached = partition.look_ahead()
                partition.dirty = False
                batch.append((partition, reached))
                commits.append((partition, self.text(partition, reached)))
        if not batch:
            return True
        errors = await self._ask(commits)
        good = True
        for partition, reached in batch:
            trouble = errors.get(partition.key, errors.get(EVERY))
            if trouble is None:
                partition.reached = max(partition.reached, reached)
                partition.relimit()
                continue
            partition.dirty = True
            good = False
            if code_of(trouble) == METADATA_TOO_LARGE and self.metadata_limit > _LEAST_METADATA:
                self._shrink()
            else:
                log.info("%s: commit of partition %d: %s", self._name, partition.number, text_of(trouble))
        return good

    def last_text(self, partition: Partition) -> Commit:
        """What to commit where nothing runs any more: the successor's suspects are only those that this owner was left and
        has not met."""
        return self.text(partition, partition.suspects)

    def text(self, partition: Partition, reached: int) -> Commit:
        """Topic, partition, offset and metadata of a commit of this moment."""
        record = partition.offsets.record(partition.topic_id, partition.partitions, reached, self.owner)
        return partition.topic, partition.number, record.base, encode(record, limit=self.metadata_limit)

    def _shrink(self) -> None:
        """The broker's ``offset.metadata.max.bytes`` is below Kafka's default."""
        self.metadata_limit = self.metadata_limit * 3 // 4
        log.warning(
            "%s: the broker refuses commit metadata that long (offset.metadata.max.bytes); at most %d characters are "
            "sent from now on",
            self._name,
            self.metadata_limit,
        )
        for partition in self._partitions.values():
            partition.offsets.limit(self.metadata_limit)

    def pause(self, partition: Partition, paused: bool) -> None:
        """Pause or resume one partition, soon."""
        partition.paused = paused
        group = self.group
        if group is not None:
            # What is due there then: the place may be another `Partition`'s by that time.
            group.call(lambda consumer: group.ownership.set_reading(consumer, [partition.key]))
