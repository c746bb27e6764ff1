"""The Kafka source: what the poll thread brings becomes deliveries; what is settled becomes commits.

Everything here runs on the loop. The first commit of an assignment precedes its first delivery: it pins where the group
began and announces how far deliveries may reach before the next commit, so that a successor of a dead process knows its
suspects.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from headrace.engine.broker import Binding
from headrace.engine.delivery import Delivery, Outcome
from headrace.engine.source import Credit, Progress
from headrace.errors import ConnectionFailed, HeadraceError
from headrace.kafka.admin import Admin, Where
from headrace.kafka.commits import Commits
from headrace.kafka.crossing import Assigned, Ended, Failed, Item, Revocation, Told
from headrace.kafka.farewells import Farewells
from headrace.kafka.faults import text_of
from headrace.kafka.group import Group
from headrace.kafka.intake import Intake
from headrace.kafka.ownership import GRACE
from headrace.kafka.partition import KafkaDelivery, Partition
from headrace.kafka.start import Start, pin
from headrace.kafka.watch import Watch, lag

__all__ = ["KafkaSource"]

log = logging.getLogger("headrace.kafka")

#: Bytes of the buffer between the poll thread and the engine, and messages for each delivery of the prefetch.
_BUFFER_BYTES: Final = 16 * 1024 * 1024
_BUFFER_FACTOR: Final = 8
#: Seconds without a poll after which health says so.
_LATE_POLL: Final = 10.0
#: Seconds without an answer of the brokers after which the source counts as not connected.
_SILENT: Final = 5.0
_partition_of: Final = attrgetter("partition")
_token_of: Final = attrgetter("token")
#: Seconds that closing waits for the group to be left.
_LEAVING: Final = GRACE + 8.0


class KafkaSource:
    """One handler's subscription to a topic. See `headrace.engine.source.Source` for the contract.

    Parameters:
        name: as metrics and health show it. topics: names, or one pattern beginning with ``^``.
        config: librdkafka options of the consumer, ``group.id`` among them.
        prepare: awaited before the group is joined; creates or checks the topic. finish: awaited after it was left.
    """

    keeps_order = True
    default_lane = "record key"
    extend_every: float | None = None

    def __init__(
        self,
        name: str,
        topics: Sequence[str],
        *,
        binding: Binding,
        admin: Admin,
        config: Mapping[str, Any],
        start: Start,
        prepare: Callable[[], Awaitable[None]],
        finish: Callable[[], Awaitable[None]],
    ) -> None:
        self.name = name
        self.topics = list(topics)
        self.group_id = str(config["group.id"])
        self._config = config
        self._binding = binding
        self._admin = admin
        self._start = start
        self._prepare = prepare
        self._finish = finish
        self._partitions: dict[Where, Partition] = {}
        self._commits = Commits(name, self._partitions, self._committed)
        #: `Partition.suspects` as another owner last left it to us.
        self._suspects: dict[Where, int] = {}
        self._intake = Intake(
            self,
            self._partitions,
            self._commits,
            topic=self.topics[0] if len(self.topics) == 1 and not self.topics[0].startswith("^") else None,
            wants_bytes=binding.wants_bytes,
            took=self._took,
        )
        self._group: Group | None = None
        self._watch: Watch | None = None
        self._failure: HeadraceError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._farewells = Farewells(self._commits)
        self._closed = False
        self._told = ""
        self._last_message = 0.0
        self._expired = 0

    # Opening and closing

    async def open(self) -> None:
        """Create or check the topic, then join the group. Raises as `Source.open` says."""
        from confluent_kafka import KafkaException

        await self._prepare()
        try:
            start = await asyncio.to_thread(pin, self._start, self.topics, self._admin)
        except KafkaException as error:
            raise ConnectionFailed(
                f"{self.name}: the ends of the logs cannot be asked for: {text_of(error)}"
            ) from error
        self._group = self._commits.group = Group(
            self._config,
            self.topics,
            name=self.name,
            start=start,
            admin=self._admin,
            loop=asyncio.get_running_loop(),
            wake=self._drain,
            room=(max(1000, _BUFFER_FACTOR * self._binding.prefetch.items), _BUFFER_BYTES),
        )
        self._group.start()
        self._watch = Watch(self._group, self._partitions, self._admin, self._config, self._is_idle)

    def _is_idle(self) -> bool:
        return self._waiter is not None and not self._intake.buffer

    async def close(self) -> None:
        """Leave the group: what runs is settled and committed as for any revocation."""
        if self._closed:
            return
        self._closed = True
        self._wake_fetch()
        if self._watch is not None:
            self._watch.close()
        try:
            await self._leave()
        finally:
            await self._finish()

    async def _leave(self) -> None:
        await self._commits.close()
        group = self._group
        if group is None:
            return
        try:
            await self._farewells.settle_all(self._partitions)
        finally:
            # Also where nobody waits any more: a member that does not leave would be given partitions.
            group.request_close()
        if not await asyncio.to_thread(group.join, _LEAVING):
            log.warning(
                "%s: the group %s was not left in time; its members notice by themselves", self.name, self.group_id
            )
        self._drain()

    # What the poll thread sends

    def _drain(self) -> None:
        """Take what crossed, in order."""
        group = self._group
        assert group is not None
        inbox = group.inbox.items
        while inbox:
            try:
                self._take_in(inbox[0])
            except Exception as error:
                # Whatever it is, the app hears of it: records of this item would be missing.
                log.exception("%s: what the poll thread sent could not be taken", self.name)
                self._failure = self._failure or HeadraceError(
                    f"{self.name}: what the poll thread sent could not be taken: {text_of(error)}"
                )
            # Removed last: while it is in the inbox the poll thread sends no second wake-up.
            inbox.popleft()
        self._wake_fetch()

    def _take_in(self, item: Item) -> None:
        if item.__class__ is list:
            self._intake.buffer.add(item)
            self._last_message = time.monotonic()
        elif isinstance(item, Assigned):
            self._take(item.partitions)
        elif isinstance(item, Revocation):
            self._give_up(item)
        elif isinstance(item, Ended):
            self._note_end(item)
        elif isinstance(item, Failed):
            self._failure = item.error
        elif isinstance(item, Told):
            self._told = item.sentence

    def _note_end(self, end: Ended) -> None:
        """What lies between the last record and the end of the log are markers and gaps: no lag."""
        partition = self._partitions.get(end.where)
        if partition is None:
            return
        last = partition.waiting[-1] if partition.waiting else self._intake.buffer.last(end.where)
        partition.tail = (partition.offsets.next if last is None else last.offset() + 1, end.offset)

    def _wake_fetch(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            old = self._partitions.get(partition.key)
            if old is not None:
                self._expired += old.expired
                self._intake.detach(old)
            if partition.announced_by == self._commits.owner:
                # It was lost and came back before anybody else had it: nothing died of what we announced ourselves.
                partition.suspects = self._suspects.get(partition.key, 0)
            self._suspects[partition.key] = partition.suspects
            partition.offsets.limit(self._commits.metadata_limit)
            self._partitions[partition.key] = partition
        if partitions:
            places = ", ".join(f"{partition.number} from {partition.offsets.next}" for partition in partitions)
            log.info("%s: partitions %s", self.name, places)
        self._commits.soon()

    # Revocation

    def _give_up(self, revocation: Revocation) -> None:
        """Forget what was not handed over; see `Farewells` for what was."""
        partitions = [self._partitions.pop(where) for where in revocation.wheres if where in self._partitions]
        self._intake.forget(revocation.wheres)
        for partition in partitions:
            partition.gone = True
            self._expired += partition.expired
            self._intake.forget_waiting(partition)
        self._farewells.give_up(revocation, partitions)

    # Fetching

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """At least one delivery within the credit; ``[]`` when the source is closed."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                return []
            batch = self._intake.collect(credit)
            if batch:
                return batch
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _took(self, items: int, size: int) -> None:
        if self._group is not None:
            self._group.room.took(items, size)

    def _committed(self) -> None:
        """After each commit: limits have moved."""
        self._intake.unblock()
        if self._intake.buffer:
            self._wake_fetch()

    @staticmethod
    def default_key(delivery: KafkaDelivery) -> str | None:
        """The lane of a handler without ``key=``: partition and record key; a record without key has no order."""
        key: bytes | None = delivery.message.key()
        return None if key is None else delivery.partition.lane + key.decode("utf-8", "backslashreplace")

    # Settling

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Complete the offset (ack, dead, drop), bring the delivery again (retry), or leave it to the next owner."""
        assert isinstance(delivery, KafkaDelivery)
        opened = delivery.partition.open
        if outcome.kind == "retry":
            if delivery.token in opened:
                asyncio.get_running_loop().call_later(outcome.delay, self._bring_again, delivery)
        elif outcome.kind != "hand_back":
            self.acknowledge((delivery,))
        elif opened.pop(delivery.token, None) is not None and not opened:
            self._farewells.emptied(delivery.partition)

    def acknowledge(self, deliveries: Iterable[KafkaDelivery]) -> None:
        """Complete the offsets of these."""
        for partition, some in groupby(deliveries, _partition_of):
            opened = partition.open
            tokens = [token for token in map(_token_of, some) if opened.pop(token, None) is not None]
            if tokens:
                partition.offsets.complete(tokens)
                partition.dirty = True
                if not opened:
                    self._farewells.emptied(partition)

    def _bring_again(self, delivery: KafkaDelivery) -> None:
        self._intake.again.append(delivery)
        self._wake_fetch()

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing expires: membership is kept by the poll thread."""

    async def flush(self) -> Sequence[Delivery]:
        """Commit what was settled so far. What belongs to a partition that went away meanwhile comes again there."""
        await self._commits.flush()
        return ()

    # Where it stands

    def progress(self) -> Progress:
        """Lag in events and in seconds over the assigned partitions; see `Progress`."""
        group = self._group
        if group is None:
            return Progress(connected=False, detail="not opened")
        events, seconds = lag(group.course.ends, self._partitions)
        detail = self._told
        for partition in self._partitions.values():
            if partition.blocked and partition.why == "map":
                detail = (
                    f"partition {partition.number} of {partition.topic} waits: offset {partition.offsets.watermark()} "
                    "is not done, and the commit metadata can hold no more completions beyond it"
                )
        # A call that the brokers do not answer (a commit in an outage) holds the poll thread, which then hears of nothing else.
        stuck = self.poll_age > _LATE_POLL
        silent = group.course.silent
        if stuck:
            detail = f"the Kafka client has not been polled for {self.poll_age:.0f} s"
        elif silent > _SILENT:
            detail = f"no answer from the Kafka brokers for {silent:.0f} s"
        if self._failure is not None:
            detail = str(self._failure)
        elif not group.connected and not detail:
            detail = "no connection to the Kafka brokers" if self._last_message else "joining the group"
        connected = group.connected and not stuck and silent <= _SILENT and self._failure is None
        return Progress(
            connected=connected,
            # What came meanwhile nobody tells.
            lag_events=events if connected else None,
            lag_seconds=seconds if connected else None,
            last_progress=self._last_message,
            reconnects=group.rebuilds,
            expired=self._expired + sum(partition.expired for partition in self._partitions.values()),
            detail=detail,
        )

    @property
    def rebalances(self) -> int:
        """Assignments and revocations since the start."""
        return 0 if self._group is None else self._group.ownership.rebalances

    @property
    def poll_age(self) -> float:
        """Seconds since the poll thread last polled."""
        return 0.0 if self._group is None else time.monotonic() - self._group.polled
