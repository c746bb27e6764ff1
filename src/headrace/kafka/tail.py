"""New records of topics as they come, for a person who watches: no group, no commits, no trace at the brokers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from headrace.cloudevents.kafka import read
from headrace.errors import ConnectionFailed, InvalidEvent
from headrace.event import Event
from headrace.kafka.admin import LATEST, Admin, TopicFacts, Where
from headrace.kafka.client_log import client_log
from headrace.kafka.completed import NO_TOPIC_ID
from headrace.kafka.faults import code_of, fatal_for_consumer, text_of
from headrace.kafka.partition import source_uri
from headrace.kafka.plain import plain_event

__all__ = ["follow"]

log = logging.getLogger("headrace.kafka")

#: Seconds between looks for topics and partitions that are new.
_LOOK: Final = 2.0
_WAIT: Final = 0.2
_BATCH: Final = 200
_PARTITION_END: Final = -191


async def follow(admin: Admin, config: Mapping[str, Any], topics: Sequence[str]) -> AsyncIterator[tuple[str, Event]]:
    """Topic and event of every record from now on, of all topics but Kafka's and Headrace's own where none is named.

    Partitions that are there at the start are followed from their ends, later ones from their beginnings. A record that is
    no event is logged with its place and the reason.

    Raises:
        ConnectionFailed: the brokers do not answer at the start, or refuse this user.
    """
    from confluent_kafka import KafkaException

    follower = _Follower(admin, config, topics)
    try:
        await asyncio.to_thread(follower.look)
        while True:
            for message in await asyncio.to_thread(follower.more):
                event = follower.event(message)
                if event is not None:
                    yield str(message.topic()), event
    except KafkaException as error:
        raise ConnectionFailed(f"the Kafka brokers do not answer what is asked of them: {text_of(error)}") from error
    finally:
        await asyncio.to_thread(follower.consumer.close)


class _Follower:
    """All but `event` block."""

    def __init__(self, admin: Admin, config: Mapping[str, Any], topics: Sequence[str]) -> None:
        from confluent_kafka import Consumer

        self.consumer: Any = Consumer({**config, "logger": client_log})
        self._admin = admin
        self._wanted = list(topics)
        self._facts: dict[str, TopicFacts] = {}
        self._followed: set[Where] = set()
        self._missing: set[str] = set()
        self._looked = 0.0

    def look(self) -> None:
        """Begin to follow what is new."""
        from confluent_kafka import TopicPartition

        found = self._admin.topics(self._wanted or self._all())
        first = not self._looked
        self._looked = time.monotonic()
        self._facts = {name: facts for name, facts in found.items() if facts is not None}
        new = [
            (name, number)
            for name, facts in self._facts.items()
            for number in range(facts.partitions)
            if (name, number) not in self._followed
        ]
        starts = self._admin.offsets(new, LATEST) if first else dict.fromkeys(new, 0)
        if new:
            self.consumer.incremental_assign([TopicPartition(*where, starts[where]) for where in new])
            self._followed.update(new)
        missing = {name for name, facts in found.items() if facts is None}
        for name in sorted(missing - self._missing):
            log.warning("topic %s does not exist; it is waited for", name)
        self._missing = missing

    def _all(self) -> list[str]:
        names = self._admin.names()
        return [name for name in names if not name.startswith(("__", "headrace."))]

    def more(self) -> list[Any]:
        """What came, after a moment at most."""
        from confluent_kafka import KafkaException

        if time.monotonic() - self._looked > _LOOK:
            try:
                self.look()
            except KafkaException as trouble:
                log.info("tail: new topics cannot be looked for at the moment: %s", text_of(trouble))
        good: list[Any] = []
        for message in self.consumer.consume(_BATCH, _WAIT):
            error = message.error()
            if error is None:
                good.append(message)
                continue
            fatal = fatal_for_consumer(error, where="tail", group="")
            if fatal is not None:
                raise fatal
            if code_of(error) != _PARTITION_END:
                log.info("tail: %s", text_of(error))
        return good

    def event(self, message: Any) -> Event | None:
        """The event that a handler would see."""
        topic, number = str(message.topic()), int(message.partition())
        try:
            event = read(message.headers() or (), message.value())
        except InvalidEvent as error:
            log.warning("topic %s, partition %d, offset %d: no event: %s", topic, number, message.offset(), error)
            return None
        if event is not None:
            return event
        id = self._facts[topic].id if topic in self._facts else NO_TOPIC_ID
        return plain_event(message, topic=topic, source=source_uri(topic, id), number=number, wants_bytes=False)
