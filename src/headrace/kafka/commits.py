"""Commits of one source: one under way at a time, made from the state of the moment in which it starts.

The poll thread makes the calls, and waits for the coordinator's answer: an answer through librdkafka's callback would
stand in its queue behind thousands of messages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from headrace.errors import ConnectionFailed, HeadraceError
from headrace.kafka.admin import Where
from headrace.kafka.completed import LIMIT, encode
from headrace.kafka.faults import code_of, text_of
from headrace.kafka.group import Group
from headrace.kafka.partition import Partition

__all__ = ["Commits"]

log = logging.getLogger("headrace.kafka")

_METADATA_TOO_LARGE: Final = 12
#: Below this there is no room for a map, and nothing smaller is tried.
_LEAST_METADATA: Final = 200
#: Seconds after which a flush reports that the broker has not confirmed yet; commits go on being tried.
_FLUSH_LIMIT: Final = 5.0
#: Stands for all partitions of a commit in its errors.
_ALL: Final[Where] = ("", -1)


class Commits:
    """``partitions``: those assigned, kept by the source. ``committed`` is called after each commit."""

    def __init__(self, name: str, partitions: dict[Where, Partition], committed: Callable[[], None]) -> None:
        self.metadata_limit = LIMIT
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
        texts: list[tuple[str, int, int, str]] = []
        for partition in self._partitions.values():
            if partition.dirty or (partition.blocked and partition.why == "commit"):
                reached = partition.look_ahead()
                partition.dirty = False
                batch.append((partition, reached))
                texts.append(self.text(partition, reached))
        if not batch:
            return True
        assert self.group is not None
        try:
            errors = await asyncio.wrap_future(self.group.call(lambda consumer: _commit(consumer, texts)))
        except HeadraceError as error:
            errors = {_ALL: error}
        good = True
        for partition, reached in batch:
            trouble = errors.get(partition.key, errors.get(_ALL))
            if trouble is None:
                partition.reached = max(partition.reached, reached)
                partition.relimit()
                continue
            partition.dirty = True
            good = False
            if code_of(trouble) == _METADATA_TOO_LARGE and self.metadata_limit > _LEAST_METADATA:
                self._shrink()
            else:
                log.info("%s: commit of partition %d: %s", self._name, partition.number, text_of(trouble))
        return good

    def text(self, partition: Partition, reached: int = 0) -> tuple[str, int, int, str]:
        """Topic, partition, offset and metadata of a commit of this moment."""
        record = partition.offsets.record(partition.topic_id, partition.partitions, reached)
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
        if self.group is not None:
            self.group.call(lambda consumer: _pause(consumer, partition, paused))


def _commit(consumer: Any, texts: list[tuple[str, int, int, str]]) -> dict[Where, Any]:
    """On the poll thread: errors by partition."""
    from confluent_kafka import KafkaException, TopicPartition

    try:
        answers = consumer.commit(offsets=[TopicPartition(*text) for text in texts], asynchronous=False)
    except KafkaException as error:
        if code_of(error) != _METADATA_TOO_LARGE or len(texts) == 1:
            return {_ALL: error}
    else:
        return {(tp.topic, tp.partition): tp.error for tp in answers or () if tp.error is not None}
    # One oversized partition fails the call, though the others were committed: tell them apart.
    errors: dict[Where, Any] = {}
    for text in texts:
        errors.update({text[:2]: error for error in _commit(consumer, [text]).values()})
    return errors


def _pause(consumer: Any, partition: Partition, paused: bool) -> None:
    """On the poll thread."""
    from confluent_kafka import KafkaException, TopicPartition

    if partition.gone:
        return
    try:
        (consumer.pause if paused else consumer.resume)([TopicPartition(partition.topic, partition.number)])
    except KafkaException as error:
        # It went to another member in this moment.
        log.debug("partition %d of %s: %s", partition.number, partition.topic, text_of(error))
