"""Publishing: confirmed, deduplicated, explained when it fails."""

import asyncio

import pytest

from headrace import Event
from headrace.engine.sink import Publication, Published
from headrace.errors import ConfigurationError, PublishFailed
from headrace.nats import Stream, Subject
from tests.nats.conftest import Connect, binding
from tests.nats.flows import events, handle, publish, take
from tests.nats.server import NatsServer


async def test_a_repeated_publish_is_answered_as_a_duplicate(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    (first,) = await publish(broker, f"{app}.a", events(1))
    (second,) = await publish(broker, f"{app}.a", events(1))
    assert first == Published(False, f"{app}:1")
    assert second == Published(True, f"{app}:1")


async def test_an_event_forwarded_to_another_subject_of_the_stream_is_no_duplicate(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(1))
    (forwarded,) = await publish(broker, f"{app}.b", events(1))
    assert not forwarded.duplicate


async def test_a_replay_of_an_event_is_no_duplicate(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    sink = broker.sink(f"{app}.a")
    await sink.open()
    (event,) = events(1)
    results = await sink.publish([Publication(event), Publication(event, replay=1), Publication(event, replay=1)])
    assert [result.duplicate for result in results if isinstance(result, Published)] == [False, False, True]


async def test_key_and_transport_headers_travel_with_the_event(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    sink = broker.sink(f"{app}.a")
    await sink.open()
    (event,) = events(1)
    await sink.publish([Publication(event.replace(partitionkey="old"), key="Zoë 1", headers=[("x-hop", "a\r\nb")])])
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    (delivery,) = await take(source, 1)
    assert delivery.event is not None
    assert delivery.event["partitionkey"] == "Zoë 1"
    assert dict(delivery.original().headers)["x-hop"] == b"a  b"
    await source.close()


async def test_one_that_is_too_large_fails_alone_and_for_good(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    sink = broker.sink(f"{app}.a")
    await sink.open()
    items = [*events(1), *events(1, first=1, size=2_000_000), *events(1, first=2)]
    one, two, three = await sink.publish([Publication(event) for event in items])
    assert isinstance(one, Published)
    assert isinstance(three, Published)
    assert isinstance(two, PublishFailed)
    assert not two.transient
    assert "max_payload" in str(two)


async def test_an_outage_is_transient_and_publishing_goes_on_afterwards(
    own_server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(own_server)
    await publish(broker, f"{app}.a", events(1))
    own_server.kill()
    sink = broker.sink(f"{app}.a")
    (result,) = await sink.publish([Publication(event) for event in events(1, first=1)])
    assert isinstance(result, PublishFailed)
    assert result.transient
    own_server.start()
    async with asyncio.timeout(20):
        while isinstance(result, Exception):
            await asyncio.sleep(0.05)
            (result,) = await sink.publish([Publication(event) for event in events(1, first=1)])
    assert result.position == f"{app}:2"


async def test_a_deleted_stream_is_made_again_by_the_next_publish(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(3))
    await broker.api.call(f"STREAM.DELETE.{app}")
    (result,) = await publish(broker, f"{app}.a", events(1))
    assert result == Published(False, f"{app}:1")


async def test_a_full_stream_that_refuses_is_transient(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    config = {"name": f"F{app}", "subjects": [f"{app}.>"], "max_msgs": 1, "discard": "new"}
    await broker.api.call(f"STREAM.CREATE.F{app}", config)
    sink = broker.sink(f"{app}.a")
    await sink.open()
    one, two = await sink.publish([Publication(event) for event in events(2)])
    assert isinstance(one, Published)
    assert isinstance(two, PublishFailed)
    assert two.transient


async def test_a_thousand_publishes_from_many_callers_are_each_confirmed(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    sink = broker.sink(f"{app}.a")
    await sink.open()
    results = await asyncio.gather(*(sink.publish([Publication(event)]) for event in events(1000)))
    positions = {result.position for (result,) in results if isinstance(result, Published)}
    assert len(positions) == 1000


async def test_an_explicit_stream_is_a_sink_for_its_subject(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    declared = Stream(f"S{app}", subject=f"{app}.x", subjects=[f"{app}.>"])
    sink = declared.sink(broker)
    await sink.open()
    (result,) = await sink.publish([Publication(event) for event in events(1)])
    assert result == Published(False, f"S{app}:1")
    with pytest.raises(ConfigurationError, match="needs subject="):
        Stream("x").sink(broker)
    with pytest.raises(ConfigurationError, match="no NATS subject"):
        Stream("x", subject="a.*").sink(broker)


async def test_a_declaration_without_a_nats_broker_says_what_to_set(app: str) -> None:
    with pytest.raises(ConfigurationError, match="HEADRACE_BROKER"):
        Subject("a").sink(None)


async def test_a_core_sink_reaches_who_listens(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    source = Subject(f"{app}.live").bind(binding(broker))
    await source.open()
    sink = Subject(f"{app}.live").sink(broker)
    await sink.open()
    assert await sink.publish([Publication(Event("t", "/s", b"1", id="1"))]) == [Published()]
    assert await handle(source, 1) == ["1"]
    await source.close()
