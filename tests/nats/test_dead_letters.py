"""Dead letters and their replays in JetStream."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from headrace import App, Retry
from headrace.engine.dead_letters import Action, DeadLetter, letter_id
from headrace.engine.delivery import ACK
from headrace.engine.edits import edit_letter
from headrace.engine.replays import replay_letter
from headrace.engine.source import Credit
from headrace.errors import PublishFailed, StoreUnavailable
from headrace.event import Event
from headrace.nats import reading
from headrace.nats.owner import OwnedSource
from headrace.testing.conformance.records import make_letter
from tests.nats.conftest import Connect, binding
from tests.nats.flows import events, handle, ids, nothing_comes, publish, take
from tests.nats.server import NatsServer


def letter(app: str, id: str = "1", *, handler: str = "bill", size: int = 10, **changes: object) -> DeadLetter:
    values: dict[str, object] = {
        "id": letter_id(app, handler, "/tests", id, 0),
        "app": app,
        "handler": handler,
        "source": "nats:order.created",
        "event_source": "/tests",
        "event_id": id,
        "event_type": "order.created",
        "headers": [
            ("ce-specversion", b"1.0"),
            ("ce-id", id.encode()),
            ("ce-source", b"/tests"),
            ("ce-type", b"order.created"),
        ],
        "body": b"\xff" + b"x" * size,
        "reason": "it broke",
        "exception": "ValueError",
        "message": "no",
        "traceback": "Traceback …",
        "attempts": 8,
        "first_seen": 1000.0,
        "last_seen": 2000.0 + float(id if id.isdigit() else 0),
        **changes,
    }
    return DeadLetter(**values)  # type: ignore[arg-type]


async def test_a_letter_is_kept_byte_for_byte(server: NatsServer, connect: Connect, app: str) -> None:
    store = (await connect(server)).dead_letters(app)
    assert store is not None
    await store.open()
    one = letter(app)
    assert await store.put([one]) == [None]
    found = await store.get(one.id)
    assert found is not None
    assert found.letter == one
    assert await store.get("0" * 24) is None
    assert await store.get("*") is None


async def test_storing_a_letter_twice_keeps_the_first(server: NatsServer, connect: Connect, app: str) -> None:
    store = (await connect(server)).dead_letters(app)
    assert store is not None
    await store.open()
    await store.put([letter(app)])
    assert await store.put([letter(app, reason="again"), letter(app, "2")]) == [None, None]
    found = await store.get(letter(app).id)
    assert found is not None
    assert found.letter.reason == "it broke"
    assert [stored.letter.event_id async for stored in store.scan(app)] == ["1", "2"]


async def test_only_the_first_of_two_changes_of_one_revision_wins(
    server: NatsServer, connect: Connect, app: str
) -> None:
    one, two = (await connect(server)).dead_letters(app), (await connect(server)).dead_letters(app)
    assert one is not None
    assert two is not None
    await one.open()
    await two.open()
    await one.put([letter(app)])
    found = await one.get(letter(app).id)
    assert found is not None
    changes = [
        msgspec.structs.replace(found.letter, state=state, audit=[Action(1.0, state, "me")])
        for state in ("replaying", "dropped")
    ]
    results = await asyncio.gather(one.update(changes[0], found.revision), two.update(changes[1], found.revision))
    assert sorted(results) == [False, True]
    now = await two.get(found.letter.id)
    assert now is not None
    assert now.letter.state == ("replaying" if results[0] else "dropped")


async def test_scan_filters_by_handler_and_counts_by_state(server: NatsServer, connect: Connect, app: str) -> None:
    store = (await connect(server)).dead_letters(app)
    assert store is not None
    await store.open()
    await store.put([letter(app, str(n), handler="bill" if n % 2 else "ship") for n in range(10)])
    assert [stored.letter.event_id async for stored in store.scan(app, handler="bill")] == ["1", "3", "5", "7", "9"]
    assert await store.counts(app) == {"bill": (5, 2001.0), "ship": (5, 2000.0)}
    found = await store.get(letter(app, "1").id)
    assert found is not None
    assert await store.update(msgspec.structs.replace(found.letter, state="dropped"), found.revision)
    assert await store.counts(app) == {"bill": (4, 2003.0), "ship": (5, 2000.0)}
    assert await store.counts("nobody") == {}


async def test_thousands_of_letters_are_scanned_in_seconds_without_holding_them_all(
    server: NatsServer, connect: Connect, app: str
) -> None:
    store = (await connect(server)).dead_letters(app)
    assert store is not None
    await store.open()
    for first in range(0, 5000, 1000):
        results = await store.put([letter(app, str(n)) for n in range(first, first + 1000)])
        assert results == [None] * 1000
    began = time.perf_counter()
    count = 0
    async for _ in store.scan(app):
        count += 1
    print(f"\n5,000 letters scanned in {time.perf_counter() - began:.2f} s")
    assert count == 5000


async def test_a_letter_too_large_for_the_broker_refers_to_its_stream(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    # In base64 beside its envelope it is larger than the server takes; the event itself was not.
    await publish(broker, f"{app}.a", events(1, size=1_000_000))
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    (delivery,) = await take(source, 1, credit=Credit(1, 1 << 21))
    store = broker.dead_letters(app)
    assert store is not None
    await store.open()
    headers, body = delivery.original()
    large = letter(app, body=body, headers=list(headers), origin=dict(delivery.metadata))
    assert await store.put([large]) == [None]
    found = await store.get(large.id)
    assert found is not None
    assert found.letter.body == body
    assert [name for name, _ in found.letter.headers] == [name for name, _ in headers]
    await broker.api.call(f"STREAM.PURGE.{app}")
    found = await store.get(large.id)
    assert found is not None
    assert found.letter.body is None
    assert [stored.letter.id async for stored in store.scan(app)] == [large.id]
    # What is gone is never replayed as an event without data, and an edit brings it back.
    problem = await replay_letter(store, broker, found, by="ann")
    assert f"its {len(body or b'')} bytes did not fit" in problem
    found = await store.get(large.id)
    assert found is not None
    assert found.letter.state == "dead"
    before = found.letter.event
    assert before is not None
    event = Event(type="a", source=before.source, id=before.id, data={"again": True})
    assert await edit_letter(store, found, event, by="ann") == ""
    found = await store.get(large.id)
    assert found is not None
    assert found.letter.replayed().data == {"again": True}
    await source.close()


async def test_an_edit_too_large_for_the_broker_is_refused_and_not_lost_in_silence(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    store = broker.dead_letters(app)
    assert store is not None
    await store.open()
    small = letter(app)
    assert await store.put([small]) == [None]
    found = await store.get(small.id)
    assert found is not None
    event = found.letter.event
    assert event is not None
    with pytest.raises(PublishFailed, match="even with its edit alone"):
        await edit_letter(store, found, event.replace(data={"text": "x" * 1_200_000}), by="ann")
    found = await store.get(small.id)
    assert found is not None
    assert found.letter.edited is None
    assert found.letter.body == small.body


async def test_an_outage_raises_store_unavailable(own_server: NatsServer, connect: Connect, app: str) -> None:
    store = (await connect(own_server)).dead_letters(app)
    assert store is not None
    await store.open()
    own_server.kill()
    with pytest.raises(StoreUnavailable):
        await store.put([letter(app)])
    with pytest.raises(StoreUnavailable):
        await store.get(letter(app).id)
    own_server.start()
    async with asyncio.timeout(20):
        while True:
            try:
                assert await store.put([letter(app)]) == [None]
                break
            except StoreUnavailable:
                await asyncio.sleep(0.1)


async def test_a_deleted_dead_letter_stream_is_made_again(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    store = broker.dead_letters(app)
    assert store is not None
    await store.open()
    await broker.api.call(f"STREAM.DELETE.headrace_dlq_{app}")
    with pytest.raises(StoreUnavailable):
        await store.put([letter(app)])
    assert await store.put([letter(app)]) == [None]


async def test_a_replay_reaches_its_handler_once(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    source = broker.replays(binding(broker))
    await source.open()
    await broker.replay(letter(app))
    await broker.replay(letter(app))
    (delivery,) = await take(source, 1)
    assert delivery.event is not None
    assert delivery.event.id == "1"
    assert delivery.event["replayof"] == letter(app).id
    assert delivery.event["replaynumber"] == "1"
    source.settle(delivery, ACK)
    await source.flush()
    assert await nothing_comes(source, 0.3)
    info = await broker.api.stream(f"headrace_replay_{app}")
    assert info is not None
    assert info["state"]["messages"] == 0
    await source.close()


async def test_only_the_owner_of_a_keyed_handler_reads_its_replays(
    server: NatsServer, connect: Connect, app: str
) -> None:
    brokers = [await connect(server), await connect(server)]
    owners = [broker.channel(f"{app}.a", binding(broker, keyed=True)) for broker in brokers]
    replays = [broker.replays(binding(broker, keyed=True)) for broker in brokers]
    for source in (*owners, *replays):
        await source.open()
    await publish(brokers[0], f"{app}.a", events(3))
    assert len(await handle(owners[1], 3)) == 3
    await brokers[0].replay(letter(app))
    stranger = asyncio.create_task(nothing_comes(replays[0], 0.5))
    assert ids(await take(replays[1], 1)) == ["1"]
    assert await stranger
    for source in (*replays, *owners):
        await source.close()


async def test_a_replay_finds_an_owner_on_a_quiet_consumer(server: NatsServer, connect: Connect, app: str) -> None:
    first = await connect(server)
    source = first.channel(f"{app}.a", binding(first, keyed=True))
    await source.open()
    await publish(first, f"{app}.a", events(4))
    assert len(await handle(source, 4)) == 4
    await source.close()
    broker = await connect(server)
    owner = broker.channel(f"{app}.a", binding(broker, keyed=True))
    assert isinstance(owner, OwnedSource)
    replays = broker.replays(binding(broker, keyed=True))
    await owner.open()
    await replays.open()
    fetching = asyncio.create_task(owner.fetch(Credit(10, 1 << 20)))
    await broker.replay(letter(app))
    assert ids(await take(replays, 1, within=10)) == ["1"]
    # Pinned by a message that was acknowledged before, which nobody sees again.
    assert owner.owner
    assert not fetching.done()
    info = await broker.api.consumer(app, f"{app}__bill")
    assert info is not None
    await owner.flush()
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    await replays.close()
    await owner.close()


async def test_a_scan_goes_on_where_the_server_ends_it_too_early(
    server: NatsServer, connect: Connect, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a loaded server, with letters replaced meanwhile, its count of what is left was too low."""
    broker = await connect(server)
    letters = broker.dead_letters(app)
    assert letters is not None
    await letters.open()
    await letters.put([make_letter(number, app=app) for number in range(250)])
    read_from = reading._read_from
    begun = []

    async def ended_early(*arguments: Any) -> AsyncIterator[reading.Read]:
        begun.append(arguments[3])
        count = 0
        async for message in read_from(*arguments):
            yield message
            count += 1
            if count == 100:
                return

    monkeypatch.setattr(reading, "_read_from", ended_early)
    found = [stored.letter.event_id async for stored in letters.scan(app)]
    assert found == [f"order-{number}" for number in range(250)]
    assert begun == [1, 101, 201]


async def test_a_letter_keeps_a_header_name_that_is_no_text(server: NatsServer, app: str) -> None:
    running = App(app, broker=server.url, store="memory://")

    @running.on(f"{app}.created", retry=Retry(attempts=1))
    async def bill(event: Event) -> None:
        raise ValueError("no")

    async with running.running() as worker:
        reader, writer = await asyncio.open_connection(*server.url.removeprefix("nats://").split(":"))
        block = b"NATS/1.0\r\nX\xc3: \xff\r\n\r\n"
        writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
        writer.write(f"HPUB {app}.created {len(block)} {len(block) + 2}\r\n".encode() + block + b"{}\r\nPING\r\n")
        async with asyncio.timeout(20):
            while b"PONG" not in await reader.read(4096):
                pass
        writer.close()
        letters = worker.dead_letters
        assert letters is not None
        found: list[DeadLetter] = []
        async with asyncio.timeout(20):
            while not found:
                found = [stored.letter async for stored in letters.scan(app)]
                await asyncio.sleep(0.05)
    assert found[0].headers == [(r"X\udcc3", b"\xff")]
    assert found[0].body == b"{}"
