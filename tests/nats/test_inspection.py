"""What check and doctor say about a server and what the app has there."""

import asyncio
import os
import socket

from headrace.engine.broker import Binding
from headrace.engine.source import Declaration
from headrace.nats import Stream, Subject
from headrace.nats.broker import NatsBroker
from tests.nats.conftest import Connect, binding
from tests.nats.flows import CREDIT, events, handle, publish
from tests.nats.server import NatsServer


async def said(broker: NatsBroker, *handlers: str, channel: str, keyed: bool = False) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"error": [], "warning": [], "info": []}
    pairs: list[tuple[str | Declaration, Binding]] = [
        (channel, binding(broker, handler, keyed=keyed, handlers=handlers)) for handler in handlers
    ]
    for level, message in await broker.inspect(pairs):
        found[level].append(message)
    return found


async def test_nothing_is_created_and_what_will_be_is_said(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    found = await said(broker, "bill", channel=f"{app}.a")
    assert any("no stream captures it yet" in text for text in found["info"])
    assert any("sync" in text for text in found["warning"])
    assert await broker.api.stream(app) is None


async def test_owner_and_strays_are_named(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(2))
    source = broker.channel(f"{app}.a", binding(broker, keyed=True))
    await source.open()
    await handle(source, 2)
    found = await said(broker, "bill", channel=f"{app}.a", keyed=True)
    assert any(f"consumer {app}__bill is owned by " in text for text in found["info"])
    assert not found["error"]
    await source.close()
    found = await said(broker, "charge", channel=f"{app}.a", keyed=True)
    assert any(f"{app}__bill on stream {app} matches no handler" in text for text in found["warning"])
    assert any(f"consumer {app}__charge on stream {app} does not exist yet" in text for text in found["info"])


async def test_a_server_without_jetstream_is_an_error_with_its_remedy(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    broker.api.prefix = "$JS.nowhere.API."
    found = await said(broker, "bill", channel=f"{app}.a")
    assert any("JetStream is not enabled" in text for text in found["error"])


async def test_streams_that_lose_events_are_warned_of(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    config = {"name": f"M{app}", "subjects": [f"{app}.>"], "storage": "memory", "max_msgs": 3}
    await broker.api.call(f"STREAM.CREATE.M{app}", config)
    await publish(broker, f"{app}.a", events(3))
    found = await said(broker, "bill", channel=f"{app}.a")
    assert any("is in memory" in text for text in found["warning"])
    assert any("the oldest are discarded, read or not" in text for text in found["warning"])


async def test_the_owner_of_a_keyed_consumer_is_named_by_host_and_pid(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker, other = await connect(server), await connect(server)
    await publish(broker, f"{app}.a", events(2))
    owner = broker.channel(f"{app}.a", binding(broker, keyed=True))
    await owner.open()
    await handle(owner, 2)
    standby = other.channel(f"{app}.a", binding(other, keyed=True))
    await standby.open()
    waiting = asyncio.create_task(standby.fetch(CREDIT))
    async with asyncio.timeout(20):
        while not standby.progress().owned_by:
            await asyncio.sleep(0.02)
    me = f"pid {os.getpid()} on {socket.gethostname()}"
    assert standby.progress().owned_by == me
    assert owner.progress().owned_by == ""
    found = await said(other, "bill", channel=f"{app}.a", keyed=True)
    assert any(f"is owned by {me}" in text and "stand by" in text for text in found["info"])
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await standby.close()
    await owner.close()


async def test_explicit_streams_and_subjects_are_told_of_too(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    await broker.api.call(f"STREAM.CREATE.S{app}", {"name": f"S{app}", "subjects": [f"{app}.>"], "storage": "memory"})
    small = {"durable_name": "small", "ack_policy": "explicit", "filter_subject": f"{app}.a", "max_ack_pending": 7}
    await broker.api.create_consumer(f"S{app}", small)
    expected = {
        "error": [
            (Stream(f"N{app}", subject="x", create=False), "does not exist and create=False: run refuses it"),
            (Stream(f"S{app}", subject=f"{app}.a", storage="file"), "storage is 'memory', declared 'file'"),
            (Stream(f"S{app}", subject=f"{app}.a", durable="small", create=False), "allows 7 unacknowledged messages"),
        ],
        "warning": [(Stream(f"S{app}", subject=f"{app}.a", durable="small"), "run raises it")],
        "info": [
            (Stream(f"N{app}", subject="x"), "does not exist yet; run creates it"),
            (Stream(f"S{app}", subject=f"{app}.a", durable="small"), "small is shared by all replicas"),
            (Subject(f"{app}.x"), f"queue group {app}__bill), at most once"),
            (Subject(f"{app}.x", queue=""), "given to every replica, at most once"),
        ],
    }
    for level, cases in expected.items():
        for declared, words in cases:
            found = await broker.inspect([(declared, binding(broker))])
            assert any(one.level == level and words in one.message for one in found), (declared, words, found)
