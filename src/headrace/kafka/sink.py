"""Events out to a topic: binary mode, the ordering key as record key, absent data in structured mode."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from headrace.cloudevents.kafka import binary, partition_key, structured
from headrace.engine.measures import SinkMeasures
from headrace.engine.sink import Publication, Published
from headrace.errors import HeadraceError
from headrace.event import Event
from headrace.kafka.producer import Producer, Record

__all__ = ["KafkaSink"]

#: The `partitionkey` extension in binary mode.
_KEY_HEADER: Final = "ce_partitionkey"


class KafkaSink:
    """One topic.

    Parameters:
        prepare: awaited at `open`; creates or checks the topic.
        tombstones: an event without data becomes a record with a null value, which a compacted topic deletes its key by.
        forward_key: the record key of an event that came with a ``partitionkey`` and is published without a key is that.
    """

    def __init__(
        self,
        topic: str,
        producer: Producer,
        prepare: Callable[[], Awaitable[None]],
        *,
        tombstones: bool = False,
        forward_key: bool = False,
        finish: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name = f"kafka:{topic}"
        self._topic = topic
        self._producer = producer
        self._prepare = prepare
        self._tombstones = tombstones
        self._forward_key = forward_key
        self._finish = finish

    async def open(self) -> None:
        """Create or check the topic."""
        await self._prepare()

    async def publish(self, publications: Sequence[Publication]) -> Sequence[Published | Exception]:
        """See `headrace.engine.sink.Sink.publish`."""
        records: list[Record] = []
        failed: dict[int, Exception] = {}
        for index, publication in enumerate(publications):
            try:
                records.append(self._record(publication))
            except HeadraceError as error:
                failed[index] = error
        results = await self._producer.publish(self._topic, records)
        if not failed:
            return results
        good = iter(results)
        return [failed[index] if index in failed else next(good) for index in range(len(publications))]

    def begin(self, publication: Publication, measures: SinkMeasures) -> asyncio.Future[Published | Exception] | None:
        """See `headrace.engine.sink.Sink`."""
        return self._producer.begin(self._topic, *self._parts(publication), measures)

    def _record(self, publication: Publication) -> Record:
        return Record(*self._parts(publication))

    def _parts(self, publication: Publication) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]:
        """Value, key and headers of its record."""
        event, key, _, beside = publication
        record_key: bytes | None = None
        own: tuple[str, bytes] | None = None
        if key is not None:
            record_key = key.encode("utf-8", "surrogateescape")
            if "partitionkey" not in event._attributes and key.isprintable() and event._raw is not None:
                own = (_KEY_HEADER, record_key)
            else:
                event = _with_key(event, key)
        elif self._forward_key:
            record_key = partition_key(event)
        headers, body = binary(event)
        if body is None and not (self._tombstones and record_key is not None):
            # A null value would be a tombstone: the event itself goes into the value.
            headers, body = structured(event)
        elif own is not None:
            headers.append(own)
        if beside:
            headers = [*headers, *((name, value.encode("utf-8")) for name, value in beside)]
        return body, record_key, headers

    async def close(self) -> None:
        """The producer belongs to the broker object, which may belong to this sink."""
        if self._finish is not None:
            await self._finish()


def _with_key(event: Event, key: str) -> Event:
    return event if event.get("partitionkey") == key else event.replace(partitionkey=key)
