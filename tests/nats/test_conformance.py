"""The contract of every source, held by JetStream: shared for handlers without a key, owned for keyed ones."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from headrace.engine.broker import Binding
from headrace.engine.dead_letters import DeadLetterStore
from headrace.engine.source import Source
from headrace.event import Event
from headrace.nats import Stream
from headrace.nats.broker import NatsBroker
from headrace.nats.publisher import header_block
from headrace.nats.wire import publication
from headrace.testing.conformance.records import CheckpointConformance, DeadLetterConformance, SuspectConformance
from headrace.testing.conformance.sources import DecodingConformance, RetryConformance, SettlementConformance
from tests.nats.conftest import Connect
from tests.nats.flows import publish
from tests.nats.server import NatsServer


class OnJetStream(DecodingConformance):
    """A channel of the running test's own; each source has a connection of its own, as another process has."""

    @pytest.fixture(autouse=True)
    async def place(self, server: NatsServer, connect: Connect, app: str) -> None:
        self.server, self.connect, self.app = server, connect, app
        self.broker: NatsBroker = await connect(server)

    async def make(self, binding: Binding) -> Source:
        broker = await self.connect(self.server)
        return broker.channel(f"{self.app}.events", binding)

    async def send(self, events: Sequence[Event]) -> None:
        await publish(self.broker, f"{self.app}.events", events)

    async def send_garbage(self) -> None:
        await self.send([])
        block = header_block([("ce-specversion", "1.0"), ("ce-type", "no.id")])
        self.broker.connection.written(publication(f"{self.app}.events".encode(), b"", block, b"garbage"))
        await self.broker.connection.round_trip()


class TestSharedConsumer(OnJetStream, RetryConformance):
    async def make(self, binding: Binding) -> Source:
        broker = await self.connect(self.server)
        subject = f"{self.app}.events"
        # As a channel, but what a dead process held comes again after 3 s instead of 30.
        declared = Stream(self.app, subject=subject, subjects=[self.app, f"{self.app}.>"], ack_wait=3.0)
        return declared.bind(replace(binding, broker=broker))


class TestOwnedConsumer(OnJetStream, SettlementConformance):
    keyed = True


class TestDeadLetters(DeadLetterConformance):
    @pytest.fixture(autouse=True)
    async def place(self, own_server: NatsServer, connect: Connect) -> None:
        # The suite's letters are of one app, so that each test has a server of its own: a stream that is deleted and made anew
        # at once can hold what was written last before (seen on nats-server 2.15.1 on a busy machine).
        self.broker = await connect(own_server, app="conformance")

    @asynccontextmanager
    async def letters(self) -> AsyncIterator[DeadLetterStore]:
        store = self.broker.dead_letters("conformance")
        assert store is not None
        await store.open()
        yield store


class Records:
    """What the suites of records ask of a store."""

    def __init__(self, broker: NatsBroker, app: str) -> None:
        self.checkpoints, self.suspects = broker.checkpoints(app), broker.suspects(app)


class TestRecords(CheckpointConformance, SuspectConformance):
    @pytest.fixture(autouse=True)
    async def place(self, server: NatsServer, connect: Connect, app: str) -> None:
        self.server, self.connect, self.app = server, connect, app

    @asynccontextmanager
    async def opened(self, *, owner: object = None, lease: float | None = None) -> AsyncIterator[Any]:
        yield Records(await self.connect(self.server), self.app)
