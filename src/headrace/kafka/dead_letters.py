"""Dead letters in a compacted topic: a record is a letter's state, a tombstone is a letter that was replayed or dropped.

``headrace.<app>.dead-letters``, one partition, so that all see the same order. The key is the letter's id, the value the
letter, and small headers say what an index needs. A tombstone carries the envelope without the body in a header: what was
done by whom stays readable until compaction removes it (``delete.retention.ms``, 7 days).

**Compare-and-set.** Kafka has none; transactions fence. An update is a transaction under one transactional id: whoever
begins puts out the one before (its later commits fail), then reads to the end of the log, compares the revision (the
offset of the letter's last record), writes and commits. Between two successful updates by different processes one was
initialised, after which it saw all that the other had committed; so an update never overwrites what it has not seen.
New letters are written outside of that, to keep replicas from fencing each other under load: an id that exists already
is left as it is, judged by the log's end just before the write.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar
from uuid import uuid4

import msgspec

from headrace.engine.dead_letters import OMITTED, DeadLetter, Revision, Stored
from headrace.errors import PublishFailed, StoreUnavailable
from headrace.kafka.client_log import client_log
from headrace.kafka.compacted import CompactedTopic
from headrace.kafka.faults import text_of
from headrace.kafka.producer import Producer, Record

__all__ = ["KafkaDeadLetters", "dead_letter_topic", "fetch_original"]

log = logging.getLogger("headrace.kafka")
T = TypeVar("T")

#: Settings of the topic where we create it.
CONFIG: Final = {
    "cleanup.policy": "compact",
    "delete.retention.ms": str(7 * 24 * 3600 * 1000),
    "segment.ms": str(24 * 3600 * 1000),
    "max.message.bytes": str(8 * 1024 * 1024),
}
_RESOLVED: Final = ("replayed", "dropped")
_SCAN: Final = 200
#: Seconds in which an update is tried again where others put it out, or nobody answers.
_UPDATE_LIMIT: Final = 20.0

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DeadLetter).decode


def dead_letter_topic(app: str) -> str:
    """The topic's name."""
    return f"headrace.{app}.dead-letters"


class _Entry(NamedTuple):
    offset: int
    app: str
    handler: str
    state: str
    at: float


class KafkaDeadLetters:
    """See `headrace.engine.dead_letters.DeadLetterStore`.

    Parameters:
        config: librdkafka options of a reader. transactional: options of the producer that updates.
        prepare: awaited at `open`; creates or checks the topic.
        original: brings (headers, value) of a letter's origin where the letter itself had to leave it out.
    """

    def __init__(
        self,
        app: str,
        *,
        producer: Producer,
        config: Mapping[str, Any],
        transactional: Mapping[str, Any],
        prepare: Callable[[], Awaitable[object]],
        original: Callable[[DeadLetter], tuple[list[tuple[str, bytes]], bytes | None] | None],
    ) -> None:
        self.app = app
        self.topic = dead_letter_topic(app)
        self._producer = producer
        self._prepare = prepare
        self._original = original
        self._entries: dict[str, _Entry] = {}
        self._table = CompactedTopic(self.topic, {**config, "isolation.level": "read_committed"}, self._apply)
        self._transactional = {
            **transactional,
            "transactional.id": self.topic,
            "message.timeout.ms": "10000",
            "transaction.timeout.ms": "15000",
        }
        self._updater: Any = None

    async def open(self) -> None:
        """Create or check the topic, and read which letters there are."""
        await self._prepare()
        await self._run(self._table.catch_up)

    @staticmethod
    async def _run(call: Callable[[], T]) -> T:
        return await asyncio.to_thread(call)

    def _apply(self, message: Any) -> None:
        headers = dict(message.headers() or ())
        try:
            id = message.key().decode()
            at = float(headers.get("at", b"0"))
            app = headers["app"].decode() if "app" in headers else self.app
            handler, state = headers["handler"].decode(), headers["state"].decode()
            self._entries[id] = _Entry(message.offset(), app, handler, state, at)
        except (KeyError, ValueError, AttributeError):
            log.warning("topic %s: the record at offset %s is no dead letter", self.topic, message.offset())

    def _record(self, letter: DeadLetter) -> Record:
        headers = [
            ("app", letter.app.encode()),
            ("handler", letter.handler.encode()),
            ("state", letter.state.encode()),
            ("at", repr(letter.last_seen).encode()),
        ]
        if letter.state in _RESOLVED:
            envelope = msgspec.structs.replace(letter, headers=[], body=None, edited=None)
            return Record(None, letter.id.encode(), [*headers, ("letter", _encode(envelope))], 0)
        return Record(_encode(letter), letter.id.encode(), headers, 0)

    @staticmethod
    def _letter(message: Any) -> DeadLetter:
        value = message.value()
        return _decode(dict(message.headers() or ())["letter"] if value is None else value)

    # New letters

    async def put(self, letters: Sequence[DeadLetter]) -> Sequence[Exception | None]:
        """See `DeadLetterStore.put`. A letter too large for the topic leaves its value where it came from."""
        await self._run(self._table.catch_up)
        results: list[Exception | None] = [None] * len(letters)
        new = {
            letter.id: index for index, letter in reversed(list(enumerate(letters))) if letter.id not in self._entries
        }
        for index, error in (await self._publish({index: letters[index] for index in new.values()})).items():
            if not error.transient and letters[index].body is not None:
                trimmed = _without_value(letters[index])
                error = (await self._publish({index: trimmed})).get(index)  # type: ignore[assignment]
            if error is not None and error.transient:
                raise StoreUnavailable(f"dead letters were not confirmed: {error}")
            results[index] = error
        return results

    async def _publish(self, letters: Mapping[int, DeadLetter]) -> dict[int, PublishFailed]:
        answers = await self._producer.publish(self.topic, [self._record(letter) for letter in letters.values()])
        return {
            index: answer for index, answer in zip(letters, answers, strict=True) if isinstance(answer, PublishFailed)
        }

    # Reading

    async def get(self, id: str) -> Stored | None:
        """The letter, its value brought from its origin where it was too large, or ``None``."""
        return await self._run(lambda: self._get(id))

    def _get(self, id: str) -> Stored | None:
        with self._table.lock:
            for _ in range(3):
                self._table.catch_up()
                entry = self._entries.get(id)
                if entry is None:
                    return None
                message = self._table.at(entry.offset)
                if message is not None:
                    return Stored(self._completed(self._letter(message)), entry.offset)
                # Compaction was faster: where nothing newer is there, a tombstone's time was over.
                self._table.catch_up()
                if self._entries.get(id) == entry:
                    del self._entries[id]
            return None

    def _completed(self, letter: DeadLetter) -> DeadLetter:
        if OMITTED not in letter.origin or letter.body is not None:
            return letter
        found = self._original(letter)
        return letter if found is None else msgspec.structs.replace(letter, headers=found[0], body=found[1])

    async def scan(self, app: str, *, handler: str | None = None) -> AsyncIterator[Stored]:
        """Every letter, oldest first; one too large for the topic comes without its value (`get` brings it)."""
        await self._run(self._table.catch_up)
        wanted = sorted(
            (entry.at, entry.offset, id)
            for id, entry in self._entries.items()
            if app == entry.app and handler in (None, entry.handler)
        )
        for first in range(0, len(wanted), _SCAN):
            part = [(offset, id) for _, offset, id in wanted[first : first + _SCAN]]
            found = await self._run(lambda part=part: self._read(part))  # type: ignore[misc]
            for offset, _ in part:
                if offset in found:
                    yield Stored(found[offset], offset)

    def _read(self, wanted: Sequence[tuple[int, str]]) -> dict[int, DeadLetter]:
        """Letters by offset; ones close together are read in one go."""
        offsets = sorted(offset for offset, _ in wanted)
        found: dict[int, DeadLetter] = {}
        with self._table.lock:
            while offsets:
                last = offsets[0]
                records = self._table.past(offsets[0])
                for message in records:
                    last = message.offset()
                    if last in offsets:
                        found[last] = self._letter(message)
                    offsets = [offset for offset in offsets if offset > last]
                    if not offsets or offsets[0] - last > _SCAN:
                        break
                else:
                    break
                records.close()
        return found

    async def counts(self, app: str) -> dict[str, tuple[int, float]]:
        """See `DeadLetterStore.counts`."""
        await self._run(self._table.catch_up)
        counts: dict[str, tuple[int, float]] = {}
        for entry in self._entries.values():
            if app == entry.app and entry.state == "dead":
                count, oldest = counts.get(entry.handler, (0, entry.at))
                counts[entry.handler] = (count + 1, min(oldest, entry.at))
        return counts

    # Updates

    async def update(self, letter: DeadLetter, revision: Revision) -> bool:
        """See `DeadLetterStore.update`, and the module for how."""
        return await self._run(lambda: self._update(letter, revision))

    def _update(self, letter: DeadLetter, revision: Revision) -> bool:
        from confluent_kafka import KafkaException

        mark = ("update", uuid4().bytes)
        record = self._record(letter)
        deadline = time.monotonic() + _UPDATE_LIMIT
        with self._table.lock:
            while True:
                try:
                    updater = self._fencing()
                    self._table.catch_up()
                    entry = self._entries.get(letter.id)
                    if entry is None or entry.offset != revision:
                        # It may be our own, where the answer to an earlier try was lost.
                        return entry is not None and self._has_mark(mark, entry.offset)
                    updater.begin_transaction()
                    headers = [*record.headers, mark]
                    updater.produce(self.topic, record.value, record.key, 0, headers=headers, on_delivery=_ignore)
                    updater.commit_transaction(10.0)
                    self._table.catch_up()
                    return True
                except KafkaException as error:
                    # Put out by another process, or an outage: what was written of it the next one aborts or completes.
                    self._updater = None
                    if time.monotonic() > deadline:
                        raise StoreUnavailable(f"dead letter {letter.id} was not updated: {text_of(error)}") from error
                    time.sleep(random.uniform(0.01, 0.2))

    def _has_mark(self, mark: tuple[str, bytes], offset: int) -> bool:
        message = self._table.at(offset)
        return message is not None and mark in (message.headers() or ())

    def _fencing(self) -> Any:
        """The transactional producer; a new one puts out that of any other process."""
        if self._updater is None:
            from confluent_kafka import Producer as Client

            updater = Client({**self._transactional, "logger": client_log})
            updater.init_transactions(10.0)
            self._updater = updater
        return self._updater

    async def close(self) -> None:
        """Let go of the connections."""
        await self._run(self._table.close)
        self._updater = None


def _ignore(error: Any, message: Any) -> None:
    """The commit of the transaction says it."""


def _without_value(letter: DeadLetter) -> DeadLetter:
    origin = {**letter.origin, OMITTED: len(letter.body or b"")}
    return msgspec.structs.replace(letter, body=None, headers=[], origin=origin)


def fetch_original(
    config: Mapping[str, Any], letter: DeadLetter
) -> tuple[list[tuple[str, bytes]], bytes | None] | None:
    """Headers and value of the record that a letter came from, or ``None`` where it is gone."""
    origin = letter.origin
    if not {"topic", "partition", "offset"} <= set(origin):
        return None
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    offset = int(origin["offset"])
    config = {**config, "group.id": "headrace-reader", "enable.partition.eof": "true"}
    consumer = Consumer({**config, "logger": client_log})
    try:
        consumer.assign([TopicPartition(str(origin["topic"]), int(origin["partition"]), offset)])
        message = consumer.poll(10.0)
        if message is None or message.error() is not None or message.offset() != offset:
            return None
        headers: Any = message.headers() or ()
        return [(name, value or b"") for name, value in headers], message.value()
    except KafkaException:
        return None
    finally:
        consumer.close()
