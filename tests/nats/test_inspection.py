"""What check and doctor say about a server and what the app has there."""

from headrace.nats.broker import NatsBroker
from tests.nats.conftest import Connect, binding
from tests.nats.flows import events, handle, publish
from tests.nats.server import NatsServer


async def said(broker: NatsBroker, *handlers: str, channel: str, keyed: bool = False) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"error": [], "warning": [], "info": []}
    pairs = [(channel, binding(broker, handler, keyed=keyed, handlers=handlers)) for handler in handlers]
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
    assert any(f"consumer {app}__bill is owned since" in text for text in found["info"])
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
