"""The poll thread: one librdkafka consumer, its membership in the group, and what crosses to the loop.

Everything that librdkafka calls back (assigned, revoked, lost) happens inside a poll on this thread. Messages cross in
lists, one wake-up of the loop for all that came meanwhile. While the loop has enough, this thread just does not ask for
more: librdkafka's queue is bounded. Only when that lasts are the partitions paused and the polls go on, for a member
that does not poll is put out of the group; a pause throws away what librdkafka had fetched, so it must not be a habit.

A revocation waits for the loop to settle what runs (`Revocation`), with a limit; the loop never waits for this thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, TypeVar

from headrace.errors import ConfigurationError, ConnectionFailed, HeadraceError
from headrace.kafka.admin import EARLIEST, Admin, Where
from headrace.kafka.client_log import client_log
from headrace.kafka.committing import EVERY, Commit, commit_all, may_commit_later
from headrace.kafka.faults import code_of, fatal_for_consumer, is_fatal, is_missing_topic, text_of
from headrace.kafka.partition import Partition
from headrace.kafka.start import Start, find_start

if TYPE_CHECKING:
    import asyncio

__all__ = ["GRACE", "Assigned", "Ended", "Failed", "Group", "Item", "Revocation", "Told"]

log = logging.getLogger("headrace.kafka")
T = TypeVar("T")

#: Seconds that attempts of revoked partitions get before they are cancelled, uncounted.
GRACE: Final = 10.0
#: Seconds in which the last commit of revoked partitions is tried again: the coordinator moves, or another rebalance begins.
_LAST_COMMIT: Final = 3.0
#: Seconds that leaving waits for a join under way.
_JOIN_LIMIT: Final = 8.0
#: Seconds that a look for brokers waits for an answer during an outage.
_SHOW_OF_LIFE: Final = 0.5
#: Seconds without room after which partitions are paused; seconds between polls of a paused consumer.
_PATIENCE: Final = 1.0
_PAUSED_POLL: Final = 0.2
#: Seconds that a poll waits where nothing is under way, where something was in the last second, and where it lasts.
IDLE_POLL: Final = 1.0
_BUSY_POLL: Final = 0.02
_LASTING_POLL: Final = 0.1
#: Messages asked for at once.
_BATCH: Final = 2000
_OFFSET_OUT_OF_RANGE: Final = (-140, 1)  # _AUTO_OFFSET_RESET, OFFSET_OUT_OF_RANGE
_ALL_BROKERS_DOWN: Final = -187
_MAX_POLL_EXCEEDED: Final = -147
_PARTITION_END: Final = -191


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


class Group:
    """One consumer.

    Parameters:
        config: librdkafka options. topics: names, or one pattern that begins with ``^``.
        start: where a partition without a commit begins.
        wake: called on the loop when ``inbox`` has something after it was empty.
        room: messages and bytes that may be crossed and not taken.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        topics: Sequence[str],
        *,
        name: str,
        start: Start,
        admin: Admin,
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[], None],
        room: tuple[int, int],
    ) -> None:
        self.name = name
        self.inbox: deque[Item] = deque()
        self.assigned: dict[Where, Partition] = {}
        self.rebalances = 0
        self.rebuilds = 0
        self.connected = False
        #: No broker could be reached when the client last told.
        self._down = False
        self._joined = False
        self.polled = time.monotonic()
        self.crossed = 0
        self.crossed_bytes = 0
        #: Written by the loop alone: messages and bytes that left the buffer.
        self.taken = 0
        self.taken_bytes = 0
        self.metadata_limit = 0
        self._config = dict(config)
        self._topics = list(topics)
        self._several = len(topics) > 1 or topics[0].startswith("^")
        self._start = start
        self._admin = admin
        self._loop = loop
        self._wake = wake
        self._room = room
        self._eager = "cooperative" not in self._config.get("partition.assignment.strategy", "cooperative")
        self._space = threading.Event()
        self._closing = False
        #: The thread has ended; calls are refused.
        self.ended = False
        self._rebuild = False
        self._paused = False
        self._full_since = 0.0
        self._active = self._looked = 0.0
        #: The next offset of each partition's log, a second old at most.
        self.ends: dict[Where, int] = {}
        self._read_out: list[Ended] = []
        self._gone_in_call: set[Where] = set()
        self._seen: dict[str, float] = {}
        self._thread: threading.Thread | None = None
        self._calls: deque[tuple[Callable[[Any], Any], Future[Any]]] = deque()
        self.consumer: Any = None

    # Called by the loop

    def start(self) -> None:
        """Begin to poll."""
        self._thread = threading.Thread(target=self._run, name=f"kafka-{self.name}", daemon=True)
        self._thread.start()

    def rebuild(self) -> None:
        """Give the consumer up and make a new one: it is alive and does not consume."""
        self._rebuild = True
        self._space.set()

    def request_close(self) -> None:
        """Leave the group and end the thread; `ended` tells when."""
        self._closing = True
        self._space.set()

    def join(self, seconds: float) -> bool:
        """Wait for the end of the thread; whether it ended."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def call(self, function: Callable[[Any], T]) -> Future[T]:
        """Have the poll thread call ``function(consumer)``, soon. The client lets one thread in at a time, and a thread
        that polls again at once would keep any other out."""
        future: Future[T] = Future()
        self._calls.append((function, future))
        self._space.set()
        if self.ended:
            self._serve()
        return future

    def took(self, items: int, size: int) -> None:
        """The loop took messages out of its buffer (negative: it put them back)."""
        self.taken += items
        self.taken_bytes += size
        if self.crossed - self.taken <= self._room[0] // 2:
            self._space.set()

    def has_room(self) -> bool:
        """Whether the loop would take more."""
        items, size = self._room
        return self.crossed - self.taken < items and self.crossed_bytes - self.taken_bytes < size

    # The thread

    def _run(self) -> None:
        try:
            self.consumer = self._make()
            while not self._closing:
                if self._rebuild:
                    self._replace()
                self._step()
        except HeadraceError as error:
            self._post(Failed(error))
        except Exception as error:
            # The thread must not die silently: whatever it is, the app hears of it.
            log.exception("the poll thread of %s ended", self.name)
            self._post(Failed(HeadraceError(f"{self.name}: the Kafka consumer ended: {text_of(error)}")))
        finally:
            self._say_farewell()
            self._close()
            self.ended = True
            self._serve()

    def _serve(self) -> None:
        """Make the calls that the loop asked for."""
        while True:
            try:
                function, future = self._calls.popleft()
            except IndexError:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if self.consumer is None:
                    raise ConnectionFailed(f"{self.name}: the group has been left")
                result = function(self.consumer)
            except Exception as error:  # noqa: BLE001 - it belongs to who asked
                future.set_exception(error)
            else:
                future.set_result(result)

    def _make(self) -> Any:
        self._joined = False
        from confluent_kafka import Consumer, KafkaException

        try:
            consumer = Consumer({**self._config, "error_cb": self._on_error, "logger": client_log})
        except KafkaException as error:
            raise ConfigurationError(f"{self.name}: librdkafka refuses the configuration: {text_of(error)}") from error
        consumer.subscribe(self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        return consumer

    def _step(self) -> None:
        """One round: serve, wait for room, poll, cross."""
        self._space.clear()
        self._serve()
        if not self.has_room():
            self._full_since = self._full_since or time.monotonic()
            if self._closing or self._space.wait(_PATIENCE) or time.monotonic() - self._full_since < _PATIENCE:
                return
            self._keep_alive()
            return
        self._full_since = 0.0
        consumer = self.consumer
        self._gone_in_call.clear()
        messages = consumer.consume(self._ask(), 0)
        if not messages:
            message = consumer.poll(self._patience())
            if message is not None:
                messages = [message, *consumer.consume(self._ask(), 0)]
        self.polled = time.monotonic()
        if self.polled - self._looked >= 1.0:
            self._looked = self.polled
            self._look_at_ends()
            if self._down and not messages:
                self._look_for_brokers()
        if messages:
            self._active = self.polled
            self._cross(messages)

    def _patience(self) -> float:
        """How long a poll may keep a call of the loop waiting."""
        if self._calls or self._closing:
            return 0.0
        if any(p.open or p.dirty or p.blocked for p in self.assigned.values()):
            return _BUSY_POLL if time.monotonic() - self._active < 1.0 else _LASTING_POLL
        return IDLE_POLL

    def _look_at_ends(self) -> None:
        """Where the logs end, as the last fetches told; feeds the lag."""
        from confluent_kafka import KafkaException, TopicPartition

        try:
            self.ends = {
                where: int(self.consumer.get_watermark_offsets(TopicPartition(*where), cached=True)[1])
                for where in list(self.assigned)
            }
        except KafkaException as error:
            log.debug("%s: %s", self.name, text_of(error))

    def _look_for_brokers(self) -> None:
        """After an outage: where no record comes that would show that it is over, a question does."""
        from confluent_kafka import KafkaException

        try:
            self.consumer.list_topics(timeout=_SHOW_OF_LIFE)
        except KafkaException as error:
            log.debug("%s: still no broker: %s", self.name, text_of(error))
        else:
            self.connected = True
            self._down = False

    def _ask(self) -> int:
        """How many messages to take: not many more than there is room for in bytes, judged by those before."""
        size = self.crossed_bytes // self.crossed if self.crossed else 1024
        return max(1, min(_BATCH, (self._room[1] - self.crossed_bytes + self.taken_bytes) // max(size, 1)))

    def _keep_alive(self) -> None:
        """No room for long: pause what is assigned and poll on, until there is room."""
        consumer = self.consumer
        self._set_paused(True)
        while not self._closing and not self._rebuild and not self.has_room():
            self._serve()
            message = consumer.poll(_PAUSED_POLL)
            self.polled = time.monotonic()
            if message is not None:
                self._cross([message])
        self._set_paused(False)

    def _set_paused(self, paused: bool) -> None:
        from confluent_kafka import KafkaException

        self._paused = paused
        wanted = [partition for partition in self.assigned.values() if not partition.paused]
        try:
            (self.consumer.pause if paused else self.consumer.resume)(self._tps(wanted))
        except KafkaException as error:
            log.debug("%s: %s", self.name, text_of(error))

    def _cross(self, messages: list[Any]) -> None:
        """Sort out what is no message, and hand the rest to the loop."""
        gone = self._gone_in_call
        good = messages
        size = 0
        for message in messages:
            if message.error() is not None or (gone and (message.topic(), message.partition()) in gone):
                good = [m for m in messages if self._is_good(m)]
                break
        for message in good:
            size += len(message)
        if good:
            self.connected = True
            self._down = False
            self.crossed += len(good)
            self.crossed_bytes += size
            self._post(good)
        if self._read_out:
            ended, self._read_out = self._read_out, []
            for item in ended:
                self._post(item)

    def _is_good(self, message: Any) -> bool:
        error = message.error()
        if error is None:
            return (message.topic(), message.partition()) not in self._gone_in_call
        self._judge(error, message)
        return False

    def _judge(self, error: Any, message: Any) -> None:
        """An error that came in place of a message."""
        code = code_of(error)
        if code in _OFFSET_OUT_OF_RANGE and message.topic() is not None:
            self._restart_partition((message.topic(), message.partition()))
            return
        fatal = fatal_for_consumer(error, where=self.name, group=self._config["group.id"])
        if fatal is not None:
            raise fatal
        if code == _PARTITION_END:
            self._note_end(message)
            return
        if is_fatal(error):
            self._rebuild = True
        if is_missing_topic(error):
            self._tell_now_and_then(f"topic {message.topic() or self._topics[0]} does not exist; it is waited for")
        elif code == _MAX_POLL_EXCEEDED:
            self._tell_now_and_then("the group put this member out because its loop stood still; it joins again")
        else:
            log.info("%s: %s", self.name, text_of(error))

    def _note_end(self, message: Any) -> None:
        """Once what came before has crossed, the loop learns that this was all."""
        self._read_out.append(Ended((message.topic(), message.partition()), message.offset()))

    def _on_error(self, error: Any) -> None:
        code = code_of(error)
        fatal = fatal_for_consumer(error, where=self.name, group=self._config["group.id"])
        if fatal is not None:
            self._post(Failed(fatal))
        elif code == _ALL_BROKERS_DOWN:
            self.connected = False
            self._down = True
        elif is_fatal(error):
            self._rebuild = True
        else:
            log.debug("%s: %s", self.name, text_of(error))

    def _tell_now_and_then(self, sentence: str) -> None:
        """A warning at most twice a minute for the same sentence."""
        now = time.monotonic()
        if now - self._seen.get(sentence, -60.0) >= 30.0:
            self._seen[sentence] = now
            log.warning("%s: %s", self.name, sentence)
        self._post(Told(sentence))

    def _post(self, item: Item) -> None:
        first = not self.inbox
        self.inbox.append(item)
        if first:
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:
                # The loop is closed: nobody is left to hand anything to.
                self._closing = True

    # Rebalances, inside a poll

    def _on_assign(self, consumer: Any, tps: list[Any]) -> None:
        self.rebalances += 1
        self.connected = True
        self._joined = True
        self._down = False
        partitions: list[Partition] = []
        pause = 0.05
        while tps and not self._closing:
            try:
                partitions = self._starts(consumer, [(tp.topic, tp.partition) for tp in tps])
                break
            except HeadraceError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the client raises, the assignment waits for an answer
                fatal = fatal_for_consumer(error, where=self.name, group=self._config["group.id"])
                if fatal is not None:
                    self._post(Failed(fatal))
                    return
                self._tell_now_and_then(f"the committed offsets could not be read; asking again: {text_of(error)}")
                time.sleep(pause)
                pause = min(pause * 2, 2.0)
        by_where = {partition.key: partition for partition in partitions}
        for tp in tps:
            if (tp.topic, tp.partition) in by_where:
                tp.offset = by_where[tp.topic, tp.partition].offsets.watermark()
        (consumer.assign if self._eager else consumer.incremental_assign)(tps)
        if self._paused and tps:
            consumer.pause(tps)
        self.assigned.update(by_where)
        self._post(Told(""))
        self._post(Assigned(partitions))

    def _starts(self, consumer: Any, wheres: Sequence[Where]) -> list[Partition]:
        from confluent_kafka import TopicPartition

        topics = sorted({topic for topic, _ in wheres})
        facts = self._admin.topics(topics)
        missing = [topic for topic in topics if facts[topic] is None]
        asked = {
            (topic, number)
            for topic in topics
            for number in range(0 if facts[topic] is None else facts[topic].partitions)  # type: ignore[union-attr]
        }
        if missing:
            log.warning("%s: topic %s has gone while its partitions were assigned", self.name, missing[0])
        answer = consumer.committed([TopicPartition(*where) for where in sorted(asked | set(wheres))], timeout=10.0)
        committed = {(tp.topic, tp.partition): (tp.offset, tp.metadata or "") for tp in answer if tp.offset >= 0}

        def by_time(late: Sequence[Where], milliseconds: int) -> dict[Where, int]:
            found = consumer.offsets_for_times([TopicPartition(*where, milliseconds) for where in late], timeout=10.0)
            return {(tp.topic, tp.partition): tp.offset for tp in found}

        return find_start(
            [where for where in wheres if where[0] not in missing],
            committed,
            admin=self._admin,
            facts=facts,
            start=self._start,
            by_time=by_time,
            several_topics=self._several,
            tell=self._tell_now_and_then,
            **({"metadata_limit": self.metadata_limit} if self.metadata_limit else {}),
        )

    def _restart_partition(self, where: Where) -> None:
        """The log does not have the offset that is asked for: retention was faster, or the topic is another one.

        What was read before goes on; only where to read from is found anew.
        """

        topic, number = where
        old = self.assigned.get(where)
        facts = self._admin.topics([topic])[topic] if old is not None else None
        if old is None or facts is None:
            return
        low = self._admin.offsets([where], EARLIEST)[where]
        if facts.id == old.topic_id and low >= self._position(where):
            missed = low - self._position(where)
            self._tell_now_and_then(
                f"partition {number} of topic {topic} begins at {low} now: up to {missed} events were removed by "
                "retention before they were read"
            )
            old.expired += missed
            self._read_from(topic, number, low)
            return
        (partition,) = self._starts(self.consumer, [where])
        self.assigned[where] = partition
        self._read_from(topic, number, partition.offsets.watermark())
        self._post(Assigned([partition]))

    def _read_from(self, topic: str, number: int, offset: int) -> None:
        """Go to an offset. A partition that the client has given up reading cannot be sought in: it is assigned anew."""
        from confluent_kafka import TopicPartition

        place = TopicPartition(topic, number, offset)
        if not self._eager:
            self.consumer.incremental_unassign([place])
            self.consumer.incremental_assign([place])
            return
        others = [where for where in self.assigned if where != (topic, number)]
        positions = [TopicPartition(*where, self._position(where)) for where in others]
        self.consumer.assign([*positions, place])

    def _position(self, where: Where) -> int:
        """The offset that is read next."""
        from confluent_kafka import TopicPartition

        (tp,) = self.consumer.position([TopicPartition(*where)])
        return int(tp.offset) if tp.offset >= 0 else self.assigned[where].offsets.next

    def _on_revoke(self, consumer: Any, tps: list[Any]) -> None:
        wheres = [(tp.topic, tp.partition) for tp in tps]
        self.rebalances += 1
        revocation = self._leave(wheres, lost=False)
        if revocation.wait(GRACE + 5.0):
            self._commit_last(consumer, revocation.commits)
        else:
            log.error("%s: the loop stands still; partitions %s are given up uncommitted", self.name, wheres)
        self._unassign(consumer, tps)

    def _on_lost(self, consumer: Any, tps: list[Any]) -> None:
        self.rebalances += 1
        self._leave([(tp.topic, tp.partition) for tp in tps], lost=True)
        self._unassign(consumer, tps)

    def _leave(self, wheres: list[Where], *, lost: bool) -> Revocation:
        self._gone_in_call.update(wheres)
        for where in wheres:
            self.assigned.pop(where, None)
        revocation = Revocation(wheres, lost=lost)
        self._post(revocation)
        return revocation

    def _unassign(self, consumer: Any, tps: list[Any]) -> None:
        if self._eager:
            consumer.unassign()
        else:
            consumer.incremental_unassign(tps)

    def _commit_last(self, consumer: Any, commits: Sequence[Commit]) -> None:
        """The last word on partitions that go to another member; what it does not reach is handled again there."""
        end = time.monotonic() + _LAST_COMMIT
        while commits:
            errors = commit_all(consumer, commits)
            commits = [commit for commit in commits if commit[:2] in errors or EVERY in errors]
            if not commits:
                return
            why = next(iter(errors.values()))
            if not may_commit_later(why) or time.monotonic() > end:
                log.warning("%s: the last commit of %d partitions failed: %s", self.name, len(commits), text_of(why))
                return
            time.sleep(0.05)

    # Ending and beginning again

    def _replace(self) -> None:
        """A new consumer in place of one that does not consume any more."""
        self._rebuild = False
        self.rebuilds += 1
        log.warning("%s: the consumer is rebuilt", self.name)
        self._close()
        left = list(self.assigned)
        if left:
            self._leave(left, lost=True)
        self.consumer = self._make()

    def _say_farewell(self) -> None:
        """Cases in which closing a librdkafka consumer would not take the member out of its group, which would then wait for
        it at the rebalance that is under way, or at the next, until the session times out.

        While a join is under way: the broker answers the requests of a connection in turn, and a join only when all members
        have come; behind it the farewell is given up after some seconds. So a first join is waited for, and a question to
        the coordinator waits for a later one. Without partitions a classic member that is closed sends no farewell; one that
        unsubscribes before does.
        """
        from confluent_kafka import KafkaException, TopicPartition

        if self.consumer is None or self._down or not self._closing:
            return
        end = time.monotonic() + _JOIN_LIMIT
        while not self._joined and time.monotonic() < end:
            self.consumer.poll(0.05)
        try:
            left = max(0.1, end - time.monotonic())
            self.consumer.committed([TopicPartition(self._topics[0], 0)], timeout=left)
            if not self.assigned:
                self.consumer.unsubscribe()
        except KafkaException as error:
            log.debug("%s: leaving without the coordinator's answer: %s", self.name, text_of(error))

    def _close(self) -> None:
        consumer = self.consumer
        if consumer is None:
            return
        try:
            consumer.close()
        except Exception as error:  # noqa: BLE001 - nothing depends on a clean end of a client that is given up
            log.warning("%s: the consumer did not close cleanly: %s", self.name, text_of(error))
        self.consumer = None

    @staticmethod
    def _tps(partitions: Sequence[Partition]) -> list[Any]:
        from confluent_kafka import TopicPartition

        return [TopicPartition(partition.topic, partition.number) for partition in partitions]
