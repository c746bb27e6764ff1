"""Durable mode: 202 only after the broker confirmed, whatever the broker does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from headrace.engine.sink import Publication, Published
from headrace.errors import ConfigurationError, ConnectionFailed, PublishFailed
from headrace.http import Receiver
from headrace.http.durable import DurableSource
from tests.http.answering import EVENT, Mounted, binding

BATCHED = {"content-type": "application/cloudevents-batch+json"}


class Channel:
    """A channel's source that only says whether it is open."""

    name = "model:ingress"
    keeps_order = True
    extend_every = 10.0

    def __init__(self) -> None:
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False


class Sink:
    """A sink whose confirmations the test gives."""

    name = "model:ingress"

    def __init__(self) -> None:
        self.published: list[Publication] = []
        self.confirm: asyncio.Event | None = None
        self.failure: Exception | None = None
        self.results: list[Published | Exception] | None = None

    async def open(self) -> None:
        return None

    async def publish(self, publications: Sequence[Publication]) -> Sequence[Published | Exception]:
        if self.confirm is not None:
            await self.confirm.wait()
        if self.failure is not None:
            raise self.failure
        self.published.extend(publications)
        return self.results or [Published()] * len(publications)

    async def close(self) -> None:
        return None


class Broker:
    """Remembers which channel was asked for."""

    def __init__(self) -> None:
        self.source = Channel()
        self.published_to = Sink()
        self.channels: list[str] = []

    def channel(self, channel: str, bound: Any) -> Any:
        self.channels.append(channel)
        return self.source

    def sink(self, channel: str) -> Any:
        self.channels.append(channel)
        return self.published_to


async def opened(broker: Broker, **limits: Any) -> DurableSource:
    source = Receiver("/events", mode="durable").bind(binding(broker=broker, **limits))
    assert isinstance(source, DurableSource)
    await source.open()
    return source


async def status(source: DurableSource, headers: dict[str, str] = EVENT, body: bytes = b"{}") -> int:
    reply = await Mounted(source).call("POST", "/events", headers, body)
    assert reply is not None
    return reply.status


async def test_the_answer_waits_for_the_confirmation() -> None:
    broker = Broker()
    source = await opened(broker)
    broker.published_to.confirm = asyncio.Event()
    answer = asyncio.create_task(status(source))
    await asyncio.sleep(0.02)
    assert not answer.done()
    broker.published_to.confirm.set()
    assert await answer == 202
    [publication] = broker.published_to.published
    assert (publication.event.id, publication.event.raw) == ("1", b"{}")


async def test_the_channel_is_named_after_app_and_handler() -> None:
    broker = Broker()
    source = await opened(broker)
    assert set(broker.channels) == {"headrace.shop.received.ingress"}
    assert broker.source.is_open
    assert (source.name, source.keeps_order, source.extend_every) == ("http:/events", True, 10.0)


async def test_a_batch_is_stored_whole() -> None:
    broker = Broker()
    source = await opened(broker)
    events = [{"specversion": "1.0", "id": str(number), "source": "/s", "type": "t"} for number in range(3)]
    assert await status(source, BATCHED, msgspec.json.encode(events)) == 202
    assert [publication.event.id for publication in broker.published_to.published] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (PublishFailed("no answer", transient=True), 503),
        (PublishFailed("too large", transient=False), 422),
        (ConnectionFailed("gone"), 503),
    ],
)
async def test_what_was_not_stored_is_not_accepted(failure: Exception, expected: int) -> None:
    broker = Broker()
    source = await opened(broker)
    broker.published_to.failure = failure
    assert await status(source) == expected
    broker.published_to.failure = None
    broker.published_to.results = [failure]
    assert await status(source) == expected


async def test_in_a_batch_an_outage_of_one_wins_over_a_refusal_of_another() -> None:
    broker = Broker()
    source = await opened(broker)
    broker.published_to.results = [
        Published(),
        PublishFailed("too large", transient=False),
        PublishFailed("no answer", transient=True, retry_after=9),
    ]
    events = [{"specversion": "1.0", "id": str(number), "source": "/s", "type": "t"} for number in range(3)]
    reply = await Mounted(source).call("POST", "/events", BATCHED, msgspec.json.encode(events))
    assert reply is not None
    assert (reply.status, reply.headers["retry-after"]) == (503, "9")


async def test_what_waits_for_a_confirmation_is_bounded() -> None:
    broker = Broker()
    source = await opened(broker, concurrency=1, prefetch=1)
    broker.published_to.confirm = asyncio.Event()
    waiting = [asyncio.create_task(status(source)) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await status(source) == 429
    broker.published_to.confirm.set()
    assert [await task for task in waiting] == [202, 202]


async def test_a_stopping_receiver_accepts_nothing() -> None:
    source = await opened(Broker())
    source.drain()
    assert await status(source) == 503


def test_without_a_broker_it_is_refused_at_start() -> None:
    with pytest.raises(ConfigurationError, match="'received'"):
        Receiver("/events", mode="durable").bind(binding())
