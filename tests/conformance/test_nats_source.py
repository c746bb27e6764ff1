"""The JetStream sources keep the contract: shared by replicas, and keyed with one owner."""

import itertools

import pytest

from headrace.engine.sink import Publication, Published
from headrace.nats import Stream
from headrace.nats.broker import create
from headrace.nats.client import publication
from headrace.nats.publisher import header_block
from headrace.testing.conformance import DecodingConformance, RetryConformance, SettlementConformance
from tests.nats.conftest import _shared, server  # noqa: F401 - fixtures

_numbers = itertools.count(1)


class NatsSource(DecodingConformance):
    @pytest.fixture(autouse=True)
    async def _broker(self, server):  # noqa: F811
        self.channel = f"conformance{next(_numbers)}.happened"
        self.app = self.channel.partition(".")[0]
        self.broker = create(server.url, app=self.app, settings={}, ready_within=5.0)
        await self.broker.open()
        yield
        await self.broker.close()

    def binding(self, handler="one", **changes):
        return super().binding(handler, app=self.app, broker=self.broker, **changes)

    async def make(self, binding):
        return self.broker.channel(self.channel, binding)

    async def send(self, events):
        sink = self.broker.sink(self.channel)
        await sink.open()
        for result in await sink.publish([Publication(event, event.get("partitionkey")) for event in events]):
            assert isinstance(result, Published), result

    async def send_garbage(self):
        await self.broker.sink(self.channel).open()
        block = header_block([("ce-specversion", "1.0"), ("ce-type", "no id and no source")])
        assert self.broker.connection.written(publication(self.channel.encode(), b"", block, b"garbage"))


class TestSharedConsumer(NatsSource, RetryConformance):
    async def make(self, binding):
        # As a channel is read, but what nobody settled comes again after two seconds.
        return Stream(self.app, self.channel, subjects=[self.app, f"{self.app}.>"], ack_wait=2.0).bind(binding)


class TestKeyedConsumer(NatsSource, SettlementConformance):
    keyed = True
