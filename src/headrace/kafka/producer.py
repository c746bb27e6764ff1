"""The producer: idempotent, confirmed by all in-sync replicas, one for all sinks of a broker object.

Delivery reports are served on the loop itself, by polls that go on only while something is outstanding. A thread that
served them would need the interpreter's lock once for each report, and get it against a busy loop 200 times a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final, NamedTuple

from headrace.engine.measures import SinkMeasures
from headrace.engine.sink import Published
from headrace.errors import PublishFailed
from headrace.kafka.client_log import client_log
from headrace.kafka.faults import publish_failed, refused_configuration, text_of

__all__ = ["Producer", "Record"]

log = logging.getLogger("headrace.kafka")

#: Seconds between polls for delivery reports: soon after a publish, later in an outage.
_SOON: Final = 0.0005
_LATEST: Final = 0.02
#: Seconds for the reports of what was given up.
_PURGE: Final = 2.0
#: Records handed to librdkafka before other tasks get the loop.
_STRETCH: Final = 200


class Record(NamedTuple):
    """One record on its way out. ``value`` None is a tombstone; ``partition`` -1 leaves the choice to the partitioner."""

    value: bytes | None
    key: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int = -1


class _Batch:
    """The records of one call, and the future that waits for the last report."""

    __slots__ = ("future", "left", "results")

    def __init__(self, size: int, future: asyncio.Future[None]) -> None:
        self.results: list[Published | Exception | None] = [None] * size
        self.left = size
        self.future = future

    def report(self, index: int, error: Any, message: Any) -> None:
        if error is None:
            self.results[index] = Published(False, f"{message.partition()}/{message.offset()}")
        else:
            self.results[index] = publish_failed(error, message.topic(), len(message))
        self.done()

    def done(self) -> None:
        self.left -= 1
        if not self.left and not self.future.done():
            self.future.set_result(None)


def _confirm(
    future: asyncio.Future[Published | Exception], measures: SinkMeasures, begun: float, error: Any, message: Any
) -> None:
    """The delivery report of one record of its own."""
    measures.duration.add(perf_counter() - begun)
    answer: Published | Exception
    if error is None:
        measures.published["ok"] += 1
        answer = Published(False, f"{message.partition()}/{message.offset()}")
    else:
        measures.published["failed"] += 1
        answer = publish_failed(error, message.topic(), len(message))
    if not future.done():
        future.set_result(answer)


def _refuse(topic: str, records: Sequence[Record]) -> list[Published | Exception]:
    """What is published to a producer that is closed."""
    return [PublishFailed(f"topic {topic}: the broker object is closed", transient=False) for _ in records]


class Producer:
    """``config``: librdkafka options. The client is made by `open`, or at the first publish."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)
        self._client: Any = None
        #: The loop on which it is used, kept because asking for it costs a system call.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._polling: asyncio.TimerHandle | None = None
        self._pause = _SOON
        self._turns: deque[asyncio.Future[None]] = deque()
        self._room: asyncio.Future[None] | None = None
        self._fatal = ""
        self._closed = False

    def open(self) -> None:
        """Make the client now, so that an option that it refuses is told at start-up. Raises `ConfigurationError`."""
        self._made()

    def _made(self) -> Any:
        if self._client is None or self._fatal:
            from confluent_kafka import KafkaException, Producer

            if self._client is not None:
                log.error("the Kafka producer cannot go on and is replaced: %s", self._fatal)
                self._client.purge()
                self._client.poll(0)
                self._fatal = ""
            try:
                self._client = Producer({**self._config, "error_cb": self._on_error, "logger": client_log})
            except KafkaException as error:
                raise refused_configuration(f"kafka://{self._config['bootstrap.servers']}", error) from error
            self._loop = asyncio.get_running_loop()
        return self._client

    def _on_error(self, error: Any) -> None:
        if error.fatal():
            self._fatal = text_of(error)
        else:
            log.debug("producer: %s", text_of(error))

    async def publish(self, topic: str, records: Sequence[Record]) -> list[Published | Exception]:
        """Produce in order and wait for every confirmation; a result for each record.

        A full queue is back-pressure: this call waits for room, and calls that come later wait behind it.
        """
        if not records:
            return []
        if self._closed:
            return _refuse(topic, records)
        batch = _Batch(len(records), asyncio.get_running_loop().create_future())
        first = 0
        if not self._turns:
            first = self._produce(topic, records, 0, batch)
        if first < len(records):
            await self._produce_in_turn(topic, records, first, batch)
        self._poll_soon()
        await batch.future
        return [result for result in batch.results if result is not None]

    def begin(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: list[tuple[str, bytes]],
        measures: SinkMeasures,
    ) -> asyncio.Future[Published | Exception] | None:
        """Produce one record at once; its future is the confirmation. ``None`` where it has to go through `publish`: others
        wait for room, or there is a reason to refuse it."""
        client, loop = self._client, self._loop
        if client is None or loop is None or self._turns or self._fatal or self._closed:
            return None
        future: asyncio.Future[Published | Exception] = loop.create_future()
        try:
            client.produce(
                topic, value, key, on_delivery=partial(_confirm, future, measures, perf_counter()), headers=headers
            )
        except Exception:  # noqa: BLE001 - whatever it is, `publish` meets it again and answers for it
            return None
        self._pause = _SOON
        if self._polling is None:
            self._poll_soon()
        return future

    async def _produce_in_turn(self, topic: str, records: Sequence[Record], first: int, batch: _Batch) -> None:
        """The rest of a call, in the order in which the calls came."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._turns.append(turn)
        try:
            if self._turns[0] is not turn:
                await turn
            while True:
                if self._closed:
                    for index, refusal in enumerate(_refuse(topic, records[first:]), first):
                        batch.results[index] = refusal
                        batch.done()
                    return
                first = self._produce(topic, records, first, batch)
                if first == len(records):
                    return
                self._poll_soon()
                if self._room is None:
                    await asyncio.sleep(0)
                else:
                    await self._room
        finally:
            self._turns.remove(turn)
            if self._turns and not self._turns[0].done():
                self._turns[0].set_result(None)

    def _produce(self, topic: str, records: Sequence[Record], first: int, batch: _Batch) -> int:
        """Hand records to librdkafka from ``first`` on; the index of the first that it did not take."""
        from confluent_kafka import KafkaException

        client = self._made()
        last = min(len(records), first + _STRETCH)
        for index in range(first, last):
            value, key, headers, partition = records[index]
            try:
                client.produce(
                    topic, value, key, partition, on_delivery=partial(batch.report, index), headers=list(headers)
                )
            except BufferError:
                if self._room is None:
                    self._room = asyncio.get_running_loop().create_future()
                return index
            except KafkaException as error:
                batch.results[index] = publish_failed(error, topic, None if value is None else len(value))
                batch.done()
        return last

    # Delivery reports

    def _poll_soon(self) -> None:
        self._pause = _SOON
        # Where it is closed, `close` polls until all is told.
        if self._polling is None and not self._closed:
            self._polling = asyncio.get_running_loop().call_later(_SOON, self._poll)

    def _poll(self) -> None:
        self._polling = None
        served = self._client.poll(0)
        if served and self._room is not None:
            room, self._room = self._room, None
            if not room.done():
                room.set_result(None)
        if len(self._client):
            self._pause = _SOON if served else min(self._pause * 1.3, _LATEST)
            self._polling = asyncio.get_running_loop().call_later(self._pause, self._poll)

    async def close(self, seconds: float) -> None:
        """Wait for what the client has taken, at most ``seconds``; the rest is given up, and its publishers are told, like
        those who wait for room or for their turn."""
        self._closed = True
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)
        if self._polling is not None:
            self._polling.cancel()
        client, self._client = self._client, None
        if client is None:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while len(client) and loop.time() < deadline:
            client.poll(0)
            await asyncio.sleep(_LATEST)
        client.purge()
        deadline = loop.time() + _PURGE
        while len(client) and loop.time() < deadline:
            # What was under way is given up by threads of the client's own.
            client.poll(0)
            await asyncio.sleep(_SOON)
