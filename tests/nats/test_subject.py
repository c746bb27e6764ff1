"""Core NATS subjects: at most once, shared by a queue group, requests answered."""

import asyncio

import msgspec

from headrace import Event, Reject
from headrace.engine.delivery import ACK, Outcome
from headrace.engine.source import Credit
from headrace.nats import Subject
from headrace.nats.wire import header_pairs, publication
from tests.nats.conftest import Connect, binding
from tests.nats.flows import take
from tests.nats.server import NatsServer


async def test_each_message_goes_to_one_of_a_queue_group(server: NatsServer, connect: Connect, app: str) -> None:
    one, two = await connect(server), await connect(server)
    sources = [Subject(f"{app}.x").bind(binding(broker)) for broker in (one, two)]
    for source in sources:
        await source.open()
    for n in range(50):
        one.connection.written(publication(f"{app}.x".encode(), b"", b"", b"%d" % n))
    await one.connection.round_trip()
    await two.connection.round_trip()
    got = []
    for source in sources:
        batch = await source.fetch(Credit(100, 1 << 20))
        assert batch
        got += [delivery.event.data for delivery in batch if delivery.event is not None]
    assert sorted(got) == list(range(50))
    for source in sources:
        await source.close()


async def test_a_request_is_answered_with_the_returned_event(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    source = Subject(f"{app}.x").bind(binding(broker))
    await source.open()
    asking = asyncio.create_task(broker.connection.requests.ask(f"{app}.x", b'{"a": 1}'))
    (delivery,) = await take(source, 1)
    assert delivery.answers
    assert delivery.event is not None
    assert delivery.event.data == {"a": 1}
    source.settle(delivery, Outcome("ack", result=Event("sum", "/here", {"b": 2}, id="r")))
    headers, body = await asking
    assert msgspec.json.decode(body) == {"b": 2}
    pairs = dict(header_pairs(headers))
    assert (pairs["ce-type"], pairs["ce-id"]) == ("sum", "r")
    await source.close()


async def test_a_request_without_a_result_is_answered_empty(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    source = Subject(f"{app}.x").bind(binding(broker))
    await source.open()
    asking = asyncio.create_task(broker.connection.requests.ask(f"{app}.x"))
    (delivery,) = await take(source, 1)
    source.settle(delivery, ACK)
    assert await asking == (b"", b"")
    await source.close()


async def test_a_failure_is_answered_with_an_error_header(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    source = Subject(f"{app}.x").bind(binding(broker))
    await source.open()
    for error, code in ((Reject("no such order"), "422"), (RuntimeError("boom"), "500")):
        asking = asyncio.create_task(broker.connection.requests.ask(f"{app}.x"))
        (delivery,) = await take(source, 1)
        source.settle(delivery, Outcome("dead", error=error))
        headers, body = await asking
        pairs = dict(header_pairs(headers))
        assert body == b""
        assert str(error) in pairs["Nats-Service-Error"]
        assert pairs["Nats-Service-Error-Code"] == code
    await source.close()


async def test_a_plain_message_has_a_random_id_and_its_subject_as_type(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    source = Subject(f"{app}.*").bind(binding(broker, wants_bytes=True))
    await source.open()
    for _ in range(2):
        broker.connection.written(publication(f"{app}.x".encode(), b"", b"", b'{"a": 1}'))
    one, two = [delivery.event for delivery in await take(source, 2)]
    assert one is not None
    assert two is not None
    assert (one.type, one.source, one.data) == (f"{app}.x", f"nats-core:{app}.*", b'{"a": 1}')
    assert one.id != two.id
    await source.close()


async def test_subscriptions_survive_a_restarted_server(own_server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(own_server)
    source = Subject(f"{app}.x").bind(binding(broker))
    await source.open()
    own_server.restart()
    async with asyncio.timeout(20):
        while source.progress().reconnects == 0:
            await asyncio.sleep(0.02)
    broker.connection.written(publication(f"{app}.x".encode(), b"", b"", b"1"))
    (delivery,) = await take(source, 1)
    assert delivery.event is not None
    assert delivery.event.data == 1
    await source.close()


async def test_unhandled_requests_are_refused_when_the_source_closes(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker, other = await connect(server), await connect(server)
    source = Subject(f"{app}.x").bind(binding(broker))
    await source.open()
    asking = asyncio.create_task(other.connection.requests.ask(f"{app}.x"))
    async with asyncio.timeout(20):
        while not source.progress().lag_events:
            await asyncio.sleep(0.01)
    await source.close()
    headers, _ = await asking
    assert dict(header_pairs(headers))["Nats-Service-Error-Code"] == "503"
