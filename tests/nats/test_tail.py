"""Watching channels: what comes from now on, whatever happens to the connection or the consumer."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from headrace import Event
from headrace.nats.broker import NatsBroker
from headrace.nats.wire import publication
from tests.nats.conftest import Connect
from tests.nats.flows import events, publish
from tests.nats.server import NatsServer

Tail = AsyncIterator[tuple[str, Event]]


async def watching(broker: NatsBroker, *channels: str) -> tuple[Tail, asyncio.Future[tuple[str, Event]]]:
    """A tail that is under way: its consumers exist, its first event is awaited."""
    tail = broker.tail(channels)
    first = asyncio.ensure_future(anext(tail))
    async with asyncio.timeout(30):
        while not [info async for name in names(broker, channels) async for info in consumers(broker, name)]:
            await asyncio.sleep(0.02)
    return tail, first


async def names(broker: NatsBroker, channels: tuple[str, ...]) -> AsyncIterator[str]:
    for channel in channels:
        found = await broker.api.stream_of(channel)
        if found is not None:
            yield found


async def consumers(broker: NatsBroker, stream: str) -> AsyncIterator[str]:
    async for info in broker.api.pages(f"CONSUMER.LIST.{stream}", "consumers"):
        yield info["name"]


async def test_only_what_comes_from_now_on_is_shown_and_no_consumer_stays(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(3))
    tail, first = await watching(broker, f"{app}.a")
    await publish(broker, f"{app}.a", events(3, first=3))
    found = [await first, await anext(tail), await anext(tail)]
    assert [(channel, event.id) for channel, event in found] == [(f"{app}.a", str(n)) for n in (3, 4, 5)]
    await tail.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(30):
        while [name async for name in consumers(broker, app)]:
            await asyncio.sleep(0.02)


async def test_a_channel_that_is_new_is_shown_from_its_beginning(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(1))
    tail, first = await watching(broker, f"{app}.a", f"{app}new.b")
    await publish(broker, f"{app}new.b", events(2))
    assert [(await first)[1].id, (await anext(tail))[1].id] == ["0", "1"]
    await tail.aclose()  # type: ignore[attr-defined]


async def test_without_a_channel_all_are_shown_and_records_are_not(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(1))
    tail = broker.tail(())
    first = asyncio.ensure_future(anext(tail))
    async with asyncio.timeout(30):
        while not [name async for name in consumers(broker, app)]:
            await asyncio.sleep(0.02)
    await broker.bucket.open()
    await broker.bucket.write({"some": b"record"})
    # Other tests share the server: only this app's channel is looked at.
    await publish(broker, f"{app}.a", events(1, first=7))
    found = await first
    async with asyncio.timeout(30):
        while found[0] != f"{app}.a":
            assert not found[0].startswith("$KV.")
            found = await anext(tail)
    assert found[1].id == "7"
    await tail.aclose()  # type: ignore[attr-defined]


async def test_a_consumer_that_is_deleted_is_made_again_behind_what_was_shown(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(1))
    tail, first = await watching(broker, f"{app}.a")
    await publish(broker, f"{app}.a", events(1, first=1))
    assert (await first)[1].id == "1"
    second = asyncio.ensure_future(anext(tail))
    async for name in consumers(broker, app):
        await broker.api.call(f"CONSUMER.DELETE.{app}.{name}")
    await publish(broker, f"{app}.a", events(1, first=2))
    async with asyncio.timeout(20):
        assert (await second)[1].id == "2"
    await tail.aclose()  # type: ignore[attr-defined]


async def test_a_message_that_is_no_event_is_logged_and_the_next_one_is_shown(
    server: NatsServer, connect: Connect, app: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(1))
    tail, first = await watching(broker, f"{app}.a")
    block = b"NATS/1.0\r\nce-specversion: 1.0\r\nce-id: broken\r\n\r\n"
    broker.connection.written(publication(f"{app}.a".encode(), b"", block, b"{}"))
    await publish(broker, f"{app}.a", events(1, first=9))
    assert (await first)[1].id == "9"
    assert f"message 2 of stream {app} is no event" in caplog.text
    await tail.aclose()  # type: ignore[attr-defined]


async def test_a_work_queue_is_shown_without_taking_from_it(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    await broker.api.call(f"STREAM.CREATE.{app}", {"name": app, "subjects": [f"{app}.>"], "retention": "workqueue"})
    tail = broker.tail((f"{app}.a",))
    first = asyncio.ensure_future(anext(tail))
    number = 0
    async with asyncio.timeout(10):
        while not first.done():  # only it knows when it listens
            await publish(broker, f"{app}.a", events(1, first=number))
            number += 1
            await asyncio.wait([first], timeout=0.1)
    assert (await first)[0] == f"{app}.a"
    info = await broker.api.stream(app)
    assert info is not None
    assert info["state"]["messages"] == number
    await tail.aclose()  # type: ignore[attr-defined]
