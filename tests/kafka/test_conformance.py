"""The contracts of sources and dead letters, held by Kafka topics on a real node.

Suspects are counted by another rule here (each partition's commit says how far its last owner may have reached): see
``test_dead_letters.py`` and ``test_source.py``.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from headrace.engine.broker import Binding
from headrace.engine.dead_letters import DeadLetterStore
from headrace.engine.sink import Publication, Published
from headrace.engine.source import Source
from headrace.event import Event
from headrace.kafka.broker import KafkaBroker, create
from headrace.kafka.dead_letters import dead_letter_topic
from headrace.testing.conformance import (
    DeadLetterConformance,
    DecodingConformance,
    SettlementConformance,
)
from tests.kafka.harness import Harness, until


class TestTopic(DecodingConformance, SettlementConformance):
    """A topic of the running test's own; each source has a broker object of its own, as another process has."""

    within = 40.0
    keyed = True

    @pytest.fixture(autouse=True)
    async def place(self, at: Harness) -> AsyncIterator[None]:
        self.at = at
        self.brokers: list[KafkaBroker] = []
        await at.make_topic(3)
        yield
        for broker in self.brokers:
            await broker.close()

    def binding(self, handler: str = "one", **changes: Any) -> Binding:
        return super().binding(handler, **{"app": self.at.app, **changes})

    async def make(self, binding: Binding) -> Source:
        broker = create(self.at.url, app=self.at.app, settings={}, ready_within=15.0)
        self.brokers.append(broker)
        return broker.channel(self.at.topic, replace(binding, broker=broker))

    async def send(self, events: Sequence[Event]) -> None:
        sink = self.at.broker.sink(self.at.topic)
        await sink.open()
        for start in range(0, len(events), 500):
            batch = [Publication(event, event.get("partitionkey")) for event in events[start : start + 500]]
            assert all(isinstance(result, Published) for result in await sink.publish(batch))

    async def send_garbage(self) -> None:
        self.at.write(b"garbage", headers=[("ce_specversion", b"1.0"), ("ce_type", b"no.id")])
        self.at.delivered()


class TestDeadLetters(DeadLetterConformance):
    @pytest.fixture(autouse=True)
    async def place(self, at: Harness) -> None:
        # The suite's letters are all of one app: each test begins without their topic.
        self.at = at
        topic = dead_letter_topic("conformance")
        await at.broker.open()
        if await at.facts(topic):
            for deleted in at.broker.admin.client.delete_topics([topic]).values():
                await asyncio.to_thread(deleted.result, 10)
            await until(lambda: self._is_gone(topic))

    async def _is_gone(self, topic: str) -> bool:
        return not await self.at.facts(topic)

    @asynccontextmanager
    async def letters(self) -> AsyncIterator[DeadLetterStore]:
        broker = create(self.at.url, app="conformance", settings={}, ready_within=15.0)
        await broker.open()
        store = broker.dead_letters("conformance")
        assert store is not None
        await store.open()
        try:
            yield store
        finally:
            await store.close()
            await broker.close()
