"""The poll thread: one librdkafka consumer, its membership in the group, and what crosses to the loop.

Everything that librdkafka calls back (assigned, revoked, lost) happens inside a poll on this thread. Messages cross in
lists, one wake-up of the loop for all that came meanwhile. While the loop has enough, this thread just does not ask for
more: librdkafka's queue is bounded. Only when that lasts are the partitions paused and the polls go on, for a member
that does not poll is put out of the group; a pause throws away what librdkafka had fetched, so it must not be a habit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, TypeVar

from headrace.errors import HeadraceError
from headrace.kafka.admin import Admin, Where
from headrace.kafka.calls import Calls
from headrace.kafka.client_log import client_log
from headrace.kafka.committing import Commit, Committing
from headrace.kafka.course import Course
from headrace.kafka.crossing import Ended, Failed, Inbox
from headrace.kafka.faults import (
    code_of,
    fatal_for_consumer,
    is_fatal,
    is_missing_topic,
    is_unreleased,
    refused_configuration,
    text_of,
)
from headrace.kafka.leaving import say_farewell
from headrace.kafka.ownership import Ownership
from headrace.kafka.room import Room
from headrace.kafka.start import Opening

if TYPE_CHECKING:
    import asyncio

__all__ = ["Group"]

log = logging.getLogger("headrace.kafka")
T = TypeVar("T")

#: Seconds that a look for brokers waits for an answer during an outage.
_SHOW_OF_LIFE: Final = 0.5
#: Seconds without room after which partitions are paused; seconds between polls of a paused consumer.
_PATIENCE: Final = 1.0
_PAUSED_POLL: Final = 0.2
#: Seconds that a poll waits where nothing is under way, where something was in the last second, and where it lasts.
IDLE_POLL: Final = 1.0
_BUSY_POLL: Final = 0.02
_LASTING_POLL: Final = 0.1
#: Seconds after which the answer of a commit is first looked for while there is no room.
_FIRST_LOOK: Final = 0.001
#: Seconds until the next try to join, after one that failed for good.
_BEFORE_REJOINING: Final = 1.0
#: Messages asked for at once.
_BATCH: Final = 2000
#: Of a message, what stands in its place; ``None`` for a record.
_error: Final = methodcaller("error")
_OFFSET_OUT_OF_RANGE: Final = (-140, 1)  # _AUTO_OFFSET_RESET, OFFSET_OUT_OF_RANGE
_ALL_BROKERS_DOWN: Final = -187
_MAX_POLL_EXCEEDED: Final = -147
_PARTITION_END: Final = -191


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
        start: Opening,
        admin: Admin,
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[], None],
        room: tuple[int, int],
    ) -> None:
        self.name = name
        self.inbox = Inbox(name, loop, wake=wake, unheard=self.request_close)
        self.rebuilds = 0
        self.connected = False
        #: No broker could be reached when the client last told.
        self._down = False
        self._joined = False
        self.polled = time.monotonic()
        self._config = dict(config)
        self._topics = list(topics)
        self._space = threading.Event()
        self.room = Room(*room, self._space)
        self._closing = False
        #: The thread has ended; calls are refused.
        self.ended = False
        self._rebuild = False
        self._full_since = 0.0
        self._active = self._looked = 0.0
        self._read_out: list[Ended] = []
        self._thread: threading.Thread | None = None
        self._calls = Calls(name, self._space.set)
        self._committing = Committing(name)
        self.consumer: Any = None
        self.ownership = Ownership(
            name=name,
            group=str(config["group.id"]),
            eager="cooperative" not in config.get("partition.assignment.strategy", "cooperative"),
            several=len(topics) > 1 or topics[0].startswith("^"),
            start=start,
            admin=admin,
            post=self.inbox.post,
            tell=self.inbox.tell,
            joined=self._note_joined,
            lost=self._note_lost,
            closing=lambda: self._closing,
        )
        self.course = Course(
            self.ownership, self.inbox, admin=admin, topics=topics, name=name, group=str(config["group.id"])
        )

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
        """Have the poll thread call ``function(consumer)``, soon; see `Calls`."""
        future = self._calls.add(function)
        if self.ended:
            self._calls.serve(None)
        return future

    def commit(self, texts: Callable[[], Sequence[Commit]]) -> Future[dict[Where, Any]]:
        """Have the poll thread commit what ``texts()`` names there; the answer is the errors by partition."""
        answer: Future[dict[Where, Any]] = Future()

        def begin(consumer: Any) -> None:
            self._committing.begin(consumer, texts(), answer)

        def ended(call: Future[None]) -> None:
            error = None if call.cancelled() else call.exception()
            if error is not None and answer.set_running_or_notify_cancel():
                # It was never made: the group has been left.
                answer.set_exception(error)

        self.call(begin).add_done_callback(ended)
        return answer

    # The thread

    def _run(self) -> None:
        try:
            self.consumer = self._make()
            while not self._closing:
                if self._rebuild:
                    self._replace()
                self._step()
        except HeadraceError as error:
            self.inbox.post(Failed(error))
        except Exception as error:
            # The thread must not die silently: whatever it is, the app hears of it.
            log.exception("the poll thread of %s ended", self.name)
            self.inbox.post(Failed(HeadraceError(f"{self.name}: the Kafka consumer ended: {text_of(error)}")))
        finally:
            if self.consumer is not None and self._closing and not self._down:
                say_farewell(
                    self.consumer,
                    self._topics[0],
                    ownership=self.ownership,
                    joined=lambda: self._joined,
                    name=self.name,
                )
            self._close()
            self.ended = True
            self._calls.serve(None)

    def _make(self) -> Any:
        self._joined = False
        from confluent_kafka import Consumer, KafkaException

        try:
            callbacks = {"error_cb": self._on_error, "on_commit": self._committing.on_commit}
            consumer = Consumer({**self._config, **callbacks, "logger": client_log})
        except KafkaException as error:
            raise refused_configuration(self.name, error) from error
        own = self.ownership
        consumer.subscribe(self._topics, on_assign=own.on_assign, on_revoke=own.on_revoke, on_lost=own.on_lost)
        return consumer

    def _step(self) -> None:
        """One round: serve, wait for room, poll, cross."""
        self._space.clear()
        self._calls.serve(self.consumer)
        if not self.room.free:
            self._full_since = self._full_since or time.monotonic()
            if self._closing or self._space.wait(self._answer_wait() if self._committing else _PATIENCE):
                return
            if self._committing:
                # Room may come by what a commit lets pass: its answer needs a poll, which may bring one message.
                self._poll_one()
            if time.monotonic() - self._full_since >= _PATIENCE:
                self._keep_alive()
            return
        self._full_since = 0.0
        consumer = self.consumer
        self.ownership.begin_call(consumer)
        messages = consumer.consume(self.room.ask(_BATCH), 0)
        if not messages:
            message = consumer.poll(self._patience())
            if message is not None:
                messages = [message, *consumer.consume(self.room.ask(_BATCH), 0)]
        self.polled = time.monotonic()
        self._look_after(quiet=not messages)
        if messages:
            self._active = self.polled
            self._cross(messages)

    def _look_after(self, *, quiet: bool) -> None:
        """What is done once a second."""
        if self.polled - self._looked < 1.0:
            return
        self._looked = self.polled
        self.course.look(self.consumer)
        self._committing.give_up_old()
        if self._down and quiet:
            self._look_for_brokers()

    def _answer_wait(self) -> float:
        """Seconds until the answer of a commit is looked for: soon at first, for the loop may stand still until then."""
        return min(_BUSY_POLL, max(_FIRST_LOOK, (time.monotonic() - self._full_since) / 4))

    def _patience(self) -> float:
        """How long a poll may keep a call of the loop waiting."""
        if self._calls or self._closing:
            return 0.0
        if any(p.open or p.dirty or p.blocked for p in self.ownership.assigned.values()):
            return _BUSY_POLL if time.monotonic() - self._active < 1.0 else _LASTING_POLL
        return IDLE_POLL

    def _look_for_brokers(self) -> None:
        """After an outage: where no record comes that would show that it is over, a question does. The coordinator is asked,
        for its connection is its own: on one that fetches, a broker answers only when the fetch before has waited."""
        from confluent_kafka import KafkaException, TopicPartition

        try:
            self.consumer.committed([TopicPartition(self._topics[0], 0)], timeout=_SHOW_OF_LIFE)
        except KafkaException as error:
            log.debug("%s: still no broker: %s", self.name, text_of(error))
        else:
            self.connected = True
            self._down = False

    def _poll_one(self) -> None:
        self.ownership.begin_call(self.consumer)
        message = self.consumer.poll(0.0)
        self.polled = time.monotonic()
        if message is not None:
            self._cross([message])

    def _keep_alive(self) -> None:
        """No room for long: pause what is assigned and poll on, until there is room."""
        consumer = self.consumer
        self._set_paused(True)
        while not self._closing and not self._rebuild and not self.room.free:
            self._calls.serve(self.consumer)
            self.ownership.begin_call(consumer)
            message = consumer.poll(_PAUSED_POLL)
            self.polled = time.monotonic()
            # What fills the room may wait for a commit that is never answered.
            self._look_after(quiet=message is None)
            if message is not None:
                self._cross([message])
        self._set_paused(False)

    def _set_paused(self, paused: bool) -> None:
        self.ownership.paused = paused
        self.ownership.set_reading(self.consumer, list(self.ownership.assigned))

    def _cross(self, messages: list[Any]) -> None:
        """Sort out what is no message, and hand the rest to the loop."""
        if self.ownership.gone or any(map(_error, messages)):
            messages = [message for message in messages if self._is_good(message)]
        if messages:
            self.connected = True
            self._down = False
            self.course.heard()
            self.room.fill(len(messages), sum(map(len, messages)))
            self.inbox.post(messages)
        if self._read_out:
            ended, self._read_out = self._read_out, []
            for item in ended:
                self.inbox.post(item)

    def _is_good(self, message: Any) -> bool:
        error = message.error()
        if error is None:
            return (message.topic(), message.partition()) not in self.ownership.gone
        self._judge(error, message)
        return False

    def _judge(self, error: Any, message: Any) -> None:
        """An error that came in place of a message."""
        code = code_of(error)
        if code in _OFFSET_OUT_OF_RANGE and message.topic() is not None:
            self.course.lost(self.consumer, (message.topic(), message.partition()))
            return
        fatal = fatal_for_consumer(error, where=self.name, group=self._config["group.id"])
        if fatal is not None:
            raise fatal
        if code == _PARTITION_END:
            self._note_end(message)
            return
        if is_fatal(error):
            self._begin_anew(error)
        elif is_missing_topic(error):
            self.inbox.tell(f"topic {message.topic() or self._topics[0]} does not exist; it is waited for")
        elif code == _MAX_POLL_EXCEEDED:
            self.inbox.tell("the group put this member out because its loop stood still; it joins again")
        else:
            log.info("%s: %s", self.name, text_of(error))

    def _note_joined(self) -> None:
        self.connected = True
        self._joined = True
        self._down = False

    def _note_lost(self) -> None:
        self.connected = False
        self.inbox.tell("the group gave this member's partitions away, for it was not heard of in time; it joins again")

    def _note_end(self, message: Any) -> None:
        """Once what came before has crossed, the loop learns that this was all."""
        self._read_out.append(Ended((message.topic(), message.partition()), message.offset()))

    def _on_error(self, error: Any) -> None:
        code = code_of(error)
        fatal = fatal_for_consumer(error, where=self.name, group=self._config["group.id"])
        if fatal is not None:
            self.inbox.post(Failed(fatal))
        elif code == _ALL_BROKERS_DOWN:
            self.connected = False
            self._down = True
        elif is_fatal(error):
            self._begin_anew(error)
        else:
            log.debug("%s: %s", self.name, text_of(error))

    # Ending and beginning again

    def _begin_anew(self, error: Any) -> None:
        """The consumer cannot go on."""
        self._rebuild = True
        if is_unreleased(error):
            instance = self._config.get("group.instance.id")
            self.inbox.tell(
                f"the group still holds a member with the group.instance.id {instance}; it is joined when the session of "
                "that one has ended; if that one lives, give each replica an id of its own"
            )
        else:
            log.info("%s: %s", self.name, text_of(error))

    def _replace(self) -> None:
        """A new consumer in place of one that does not consume any more."""
        log.log(logging.WARNING if self._joined else logging.INFO, "%s: the consumer is rebuilt", self.name)
        # One that never joined would end as soon again.
        end = time.monotonic() + (0.0 if self._joined else _BEFORE_REJOINING)
        while not self._closing and (left := end - time.monotonic()) > 0:
            self._space.clear()
            self._calls.serve(self.consumer)
            self._space.wait(left)
        self._rebuild = False
        self.rebuilds += 1
        self._close()
        if self.ownership.all:
            self.ownership.leave(self.ownership.all, lost=True)
        self.consumer = self._make()

    def _close(self) -> None:
        consumer = self.consumer
        if consumer is None:
            return
        try:
            consumer.close()
        except Exception as error:  # noqa: BLE001 - nothing depends on a clean end of a client that is given up
            log.warning("%s: the consumer did not close cleanly: %s", self.name, text_of(error))
        self.consumer = None
        self._committing.give_up("the consumer was closed")
