"""A compacted topic read as a table: the last record of each key, known up to the end of the log at each question.

No reader runs in the background. A question first reads what was appended since the last one, which is one look at the
end of the log where nothing was. All calls block; they are made from threads, one at a time for each table.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from headrace.errors import StoreUnavailable
from headrace.kafka.client_log import client_log
from headrace.kafka.faults import code_of, refused_configuration, text_of

__all__ = ["CompactedTopic"]

_END_OF_PARTITION: Final = -191
_BATCH: Final = 500
#: No such topic or partition yet, no leader, another leader.
_NO_LEADER: Final = frozenset({3, 5, 6})


class CompactedTopic:
    """One partition of ``topic``. ``apply`` is called with each record in order (its value is not kept here).

    Raises of all calls: `StoreUnavailable` where the brokers do not answer within ``timeout`` seconds; of the first also
    `ConfigurationError` where librdkafka refuses the options.
    """

    def __init__(
        self, topic: str, config: Mapping[str, Any], apply: Callable[[Any], None], *, timeout: float = 10.0
    ) -> None:
        self.topic = topic
        self.lock = threading.RLock()
        self._config = {
            **config,
            "enable.partition.eof": "true",
            "group.id": "headrace-reader",
            "fetch.wait.max.ms": "50",
        }
        self._apply = apply
        self._timeout = timeout
        self._consumer: Any = None
        self._position = 0

    @contextmanager
    def _reading(self, offset: int) -> Iterator[Any]:
        """The consumer at an offset; afterwards it fetches nothing any more."""
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        with self.lock:
            if self._consumer is None:
                try:
                    self._consumer = Consumer({**self._config, "logger": client_log})
                except KafkaException as error:
                    raise refused_configuration(f"topic {self.topic}", error) from error
            try:
                self._consumer.assign([TopicPartition(self.topic, 0, offset)])
                try:
                    yield self._consumer
                finally:
                    self._consumer.unassign()
            except KafkaException as error:
                raise StoreUnavailable(f"topic {self.topic} cannot be read: {text_of(error)}") from error

    def _end(self, consumer: Any) -> int:
        """The end of the log. A topic that has just been made, or whose leader moves, has none for a moment."""
        from confluent_kafka import KafkaException, TopicPartition

        end = time.monotonic() + self._timeout
        while True:
            left = max(0.1, end - time.monotonic())
            try:
                _, high = consumer.get_watermark_offsets(TopicPartition(self.topic, 0), timeout=left, cached=False)
            except KafkaException as error:
                if code_of(error) not in _NO_LEADER or time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return int(high)

    def catch_up(self) -> None:
        """Apply what was appended since the last call."""
        with self.lock:
            for message in self._records(self._position):
                if message.__class__ is int:
                    self._position = message
                else:
                    self._apply(message)
                    self._position = message.offset() + 1

    def past(self, offset: int) -> Generator[Any, None, None]:
        """Every record from an offset to the end of the log at this moment; nothing is applied."""
        return (message for message in self._records(offset) if message.__class__ is not int)

    def at(self, offset: int) -> Any:
        """The record at an offset, or ``None`` where compaction has removed it."""
        records = self.past(offset)
        message = next(records, None)
        records.close()
        return message if message is not None and message.offset() == offset else None

    def _records(self, offset: int) -> Generator[Any, None, None]:
        """Records, and at the end the offset up to which the log was read (markers of transactions are no records)."""
        with self._reading(offset) as consumer:
            end = self._end(consumer)
            deadline = time.monotonic() + self._timeout
            while offset < end:
                for message in consumer.consume(_BATCH, 0) or [consumer.poll(0.2)]:
                    if message is None:
                        continue
                    error = message.error()
                    if error is None:
                        deadline = time.monotonic() + self._timeout
                        offset = message.offset() + 1
                        yield message
                    elif error.code() == _END_OF_PARTITION:
                        offset = max(offset, message.offset())
                    elif error.fatal() or not error.retriable():
                        raise StoreUnavailable(f"topic {self.topic} cannot be read: {text_of(error)}")
                if time.monotonic() > deadline:
                    raise StoreUnavailable(f"topic {self.topic}: no answer from the brokers for {self._timeout:g} s")
            yield offset

    def close(self) -> None:
        """Let go of the connection."""
        with self.lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None
