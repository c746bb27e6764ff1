"""From the records that crossed to deliveries: what the engine's credit lets through, and what a partition's limits hold back.

Runs on the loop. Records wait here in the order of each partition: in the buffer, then, where a partition has reached what
its last commit announced or what its map can hold, in the partition's own queue until a commit has moved the limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from headrace.engine.source import Credit
from headrace.errors import InvalidEvent
from headrace.event import Event
from headrace.kafka.admin import Where
from headrace.kafka.buffer import Buffer, Run, offsets_of
from headrace.kafka.commits import Commits
from headrace.kafka.partition import KafkaDelivery, Partition
from headrace.kafka.plain import plain_event
from headrace.kafka.shapes import decode

if TYPE_CHECKING:
    from headrace.engine.source import Source

__all__ = ["Intake"]

#: Offsets that must be free before a partition whose map was full is read on, so that it does not stutter.
_HYSTERESIS: Final = 256
#: Bytes that a record costs beside its value.
_OVERHEAD: Final = 400


class Intake:
    """That of one source.

    Parameters:
        partitions: those assigned, kept by the source. topic: the one that all records are of, where it is one.
        wants_bytes: plain records are not looked through for JSON.
        took: told of records and bytes that make room for others.
    """

    def __init__(
        self,
        source: Source,
        partitions: Mapping[Where, Partition],
        commits: Commits,
        *,
        topic: str | None,
        wants_bytes: bool,
        took: Callable[[int, int], None],
    ) -> None:
        self.buffer = Buffer(topic)
        #: Retries that were settled with the source.
        self.again: deque[KafkaDelivery] = deque()
        self._source = source
        self._partitions = partitions
        self._commits = commits
        self._wants_bytes = wants_bytes
        self._took = took
        #: Partitions whose log was replaced by another: the rest of the old one.
        self._detached: list[Partition] = []

    def collect(self, credit: Credit) -> list[KafkaDelivery]:
        """What may be handed over within the credit; perhaps nothing."""
        items, space = credit
        found: list[KafkaDelivery] = []
        if self._detached or self.again:
            space = self._collect_extras(found, items, space)
        runs = self.buffer.runs
        while runs and len(found) < items and (space > 0 or not found):
            run = runs[0]
            partition = self._partitions.get(run.where)
            if partition is None:
                # Left over from a partition that went away.
                self.forget((run.where,))
                continue
            space = self._take_some(run, partition, items - len(found), space, found)
            if run.at == len(run.messages):
                runs.popleft()
        return found

    def _take_some(self, run: Run, partition: Partition, items: int, space: int, found: list[KafkaDelivery]) -> int:
        """Hand over what the credit allows of a run, and keep back what its partition's limit does not allow; the space
        that is left."""
        messages = run.messages[run.at : run.at + items]
        sizes = list(map(len, messages))
        if sum(sizes) + _OVERHEAD * len(sizes) > space:
            some = _fitting(sizes, space) or (0 if found else 1)
            if not some:
                return 0
            messages, sizes = messages[:some], sizes[:some]
        run.at += len(messages)
        offsets = offsets_of(messages)
        if offsets[-1] >= partition.limit:
            limit = -1 if partition.blocked else partition.relimit()
            passing = next((index for index, offset in enumerate(offsets) if offset >= limit), len(offsets))
            for message in messages[passing:]:
                self._block(partition, message)
            messages, sizes, offsets = messages[:passing], sizes[:passing], offsets[:passing]
            if not messages:
                return space
        if offsets[-1] >= partition.renew_at:
            partition.hurry()
            self._commits.soon()
        self._took(len(messages), sum(sizes))
        partition.last = messages[-1]
        before = len(found)
        self._deliver(messages, sizes, partition, partition.offsets.hand_over_all(offsets), found)
        return space - sum([delivery.size for delivery in found[before:]])

    def _collect_extras(self, found: list[KafkaDelivery], items: int, space: int) -> int:
        """What comes before the buffer: retries settled with us, and the rest of logs that were replaced."""
        while self.again and len(found) < items and (space > 0 or not found):
            old = self.again.popleft()
            if old.voided is None and old.token in old.partition.open:
                self._deliver([old.message], [len(old.message)], old.partition, [old.token], found)
                space -= found[-1].size
        while self._detached and len(found) < items and (space > 0 or not found):
            partition = self._detached[0]
            if not partition.waiting:
                self._detached.pop(0)
                continue
            message = partition.waiting.popleft()
            before = len(found)
            self._deliver(
                [message], [len(message)], partition, partition.offsets.hand_over_all([message.offset()]), found
            )
            space -= sum([delivery.size for delivery in found[before:]])
        return space

    def _deliver(
        self,
        messages: Sequence[Any],
        sizes: Sequence[int],
        partition: Partition,
        tokens: Sequence[int | None],
        found: list[KafkaDelivery],
    ) -> None:
        """Make deliveries of records of one partition, but for those without a token."""
        source = self._source
        opened = partition.open
        suspects = partition.suspects
        error: InvalidEvent | None
        for message, size, token, event in zip(messages, sizes, tokens, decode(messages), strict=True):
            if token is None:
                # Completed by a former owner, as its map says.
                partition.dirty = True
                continue
            error = None
            if event is None:
                event = plain_event(
                    message,
                    topic=partition.topic,
                    source=partition.source_uri,
                    number=partition.number,
                    wants_bytes=self._wants_bytes,
                )
            elif not isinstance(event, Event):
                event, error = None, event
            delivery = KafkaDelivery(
                source, event, size + _OVERHEAD, error, suspects > 0 and suspects > message.offset()
            )
            delivery.message = message
            delivery.partition = partition
            delivery.token = token
            opened[token] = delivery
            found.append(delivery)

    # Limits

    def _block(self, partition: Partition, message: Any) -> None:
        """Keep a record back until the limit has moved."""
        if not partition.blocked:
            partition.blocked = True
            partition.limit = -1
            partition.dirty = True
            self._commits.soon()
            if partition.why == "map":
                self._commits.pause(partition, True)
        partition.waiting.append(message)
        if partition.paused:
            # What waits for long makes room for other partitions; no more of it comes.
            self._took(1, len(message))

    def unblock(self) -> None:
        """After a commit: let go of what may pass now."""
        for partition in self._partitions.values():
            if not partition.blocked:
                continue
            waiting = partition.waiting
            room = partition.relimit() - waiting[0].offset()
            if room <= 0 or (partition.paused and room < _HYSTERESIS):
                if partition.why == "map" and not partition.paused:
                    self._commits.pause(partition, True)
                    self._took(len(waiting), sum(map(len, waiting)))
                continue
            partition.blocked = False
            partition.relimit()
            if partition.paused:
                self._commits.pause(partition, False)
                self._took(-len(waiting), -sum(map(len, waiting)))
            self.buffer.put_back(partition.key, list(waiting))
            waiting.clear()

    # What goes

    def detach(self, old: Partition) -> None:
        """The log of a partition begins anew; what was read of the old one is still handled, and committed nowhere."""
        read = [*old.waiting, *self.forget((old.key,))]
        self.forget_waiting(old)
        old.waiting.extend(read)
        old.gone = True
        old.limit = 1 << 63
        self._detached.append(old)

    def forget_waiting(self, partition: Partition) -> None:
        if not partition.paused:
            self._took(len(partition.waiting), sum(map(len, partition.waiting)))
        partition.waiting.clear()

    def forget(self, wheres: Sequence[Where]) -> list[Any]:
        removed = self.buffer.remove(wheres)
        self._took(len(removed), sum(map(len, removed)))
        return removed


def _fitting(sizes: Sequence[int], space: int) -> int:
    """How many records of these sizes fit."""
    for index, size in enumerate(sizes):
        space -= size + _OVERHEAD
        if space < 0:
            return index
    return len(sizes)
