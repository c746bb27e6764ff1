"""The contract of every source, held by a durable receiver: sent over HTTP, read from JetStream."""

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from headrace.cloudevents.json import batch
from headrace.engine.broker import Binding
from headrace.engine.source import Source
from headrace.event import Event
from headrace.http import Receiver
from headrace.http.durable import DurableSource
from headrace.nats.broker import NatsBroker, create
from headrace.testing.conformance import SettlementConformance
from tests.http.answering import Mounted

BATCH = {"content-type": "application/cloudevents-batch+json"}
RECEIVER = Receiver("/events", mode="durable")


class Door(DurableSource):
    """The side towards senders alone: another process of the app that reads nothing."""

    async def open(self) -> None:
        await self._sink.open()
        self._accepting = True


class TestDurableReceiver(SettlementConformance):
    """An app of the running test's own. Each source has a broker object of its own, as another process has, and each
    handler a receiver: what is sent goes to both."""

    within = 40.0
    keyed = True

    @pytest.fixture(autouse=True)
    async def place(self, nats_server) -> AsyncIterator[None]:
        self.url = nats_server.url
        self.app = f"t{uuid.uuid4().hex[:10]}"
        self.brokers: list[NatsBroker] = []
        self.doors: list[Door] = []
        yield
        for broker in self.brokers:
            await broker.close()

    def binding(self, handler: str = "one", **changes: object) -> Binding:
        return super().binding(handler, **{"app": self.app, **changes})

    async def bound(self, binding: Binding) -> Binding:
        broker = create(self.url, app=self.app, settings={}, ready_within=10.0)
        await broker.open()
        self.brokers.append(broker)
        return replace(binding, broker=broker)

    async def make(self, binding: Binding) -> Source:
        return DurableSource(RECEIVER, await self.bound(binding))

    async def send(self, events: Sequence[Event]) -> None:
        if not self.doors:
            for handler in ("one", "two"):
                door = Door(RECEIVER, await self.bound(self.binding(handler)))
                await door.open()
                self.doors.append(door)
        for start in range(0, len(events), 200):
            for door in self.doors:
                reply = await Mounted(door).call("POST", "/events", BATCH, batch(events[start : start + 200]))
                assert reply is not None
                assert reply.status == 202, reply.body
