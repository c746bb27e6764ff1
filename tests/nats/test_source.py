"""A shared JetStream consumer on a real server: what arrives, what comes again, what is proved."""

import asyncio

import pytest

from headrace import Event
from headrace.engine.delivery import ACK, DEAD, DROP, HAND_BACK, Outcome
from headrace.engine.source import Credit
from headrace.errors import ConfigurationError, RefusedError
from headrace.nats import Stream
from headrace.nats.publisher import header_block
from headrace.nats.source import JetStreamSource
from headrace.nats.wire import publication
from tests.nats.conftest import Connect, binding
from tests.nats.flows import CREDIT, events, handle, ids, nothing_comes, publish, take
from tests.nats.server import NatsServer


async def test_events_arrive_whole_with_their_metadata(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    sent = Event(
        "order.created", "/shop", {"a": 1}, id="7", subject="ö ü", datacontenttype="application/json", tenant="blå"
    )
    await publish(broker, f"{app}.a", [sent])
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    (delivery,) = await take(source, 1)
    assert delivery.event == sent
    found = delivery.metadata
    assert (found["stream"], found["sequence"], found["deliveries"], found["subject"]) == (app, 1, 1, f"{app}.a")
    assert delivery.original().body == b'{"a":1}'
    assert not delivery.redelivered
    source.settle(delivery, ACK)
    assert await source.flush() == []
    await source.close()


async def test_a_channel_finds_its_stream_or_creates_one(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.created", events(1))
    info = await broker.api.stream(app)
    assert info is not None
    config = info["config"]
    assert config["subjects"] == [app, f"{app}.>"]
    assert (config["storage"], config["retention"], config["duplicate_window"]) == ("file", "limits", 600 * 10**9)
    await publish(broker, f"{app}.billed", events(1))
    assert await broker.api.stream_of(f"{app}.billed") == app


async def test_where_a_wider_stream_would_overlap_one_for_the_exact_subject_is_made(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await broker.api.call(f"STREAM.CREATE.X{app}", {"name": f"X{app}", "subjects": [f"{app}.special"]})
    await publish(broker, f"{app}.created", events(1))
    info = await broker.api.stream(f"{app}_created")
    assert info is not None
    assert info["config"]["subjects"] == [f"{app}.created"]


async def test_a_channel_of_the_runtime_has_a_stream_of_its_own(server: NatsServer, connect: Connect, app: str) -> None:
    """A wide one would take the subjects of every app's dead letters and replays."""
    broker = await connect(server)
    await publish(broker, f"headrace.{app}.received.ingress", events(1))
    info = await broker.api.stream(f"headrace_{app}_received_ingress")
    assert info is not None
    assert info["config"]["subjects"] == [f"headrace.{app}.received.ingress"]


async def test_messages_that_are_no_cloudevents_are_events_too(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    source = broker.channel(f"{app}.raw", binding(broker))
    await source.open()
    subject = f"{app}.raw".encode()
    structured = Event("t", "/s", {"x": 1}, id="9").to_json()
    for block, body in (
        (b"", b'{"n": 1}'),
        (b"", b"\xff\x00"),
        (header_block([("Content-Type", "text/plain")]), b"hello"),
        (b"", structured),
        (b"", b""),
    ):
        broker.connection.written(publication(subject, b"", block, body))
    found = await take(source, 5)
    stream = await broker.api.stream(app)
    assert stream is not None
    json, raw, text, event, empty = [delivery.event for delivery in found]
    assert json is not None
    assert raw is not None
    assert text is not None
    assert event is not None
    assert empty is not None
    assert (json.type, json.id, json.data) == (f"{app}.raw", "1", {"n": 1})
    assert json.source == f"nats:{app}/{stream['created']}"
    assert (raw.id, raw.data) == ("2", b"\xff\x00")
    assert (text.data, text.datacontenttype) == ("hello", "text/plain")
    assert (event.id, event.source, event.data) == ("9", "/s", {"x": 1})
    assert (empty.id, empty.data) == ("5", None)
    for delivery in found:
        source.settle(delivery, ACK)
    await source.close()


async def test_an_undecodable_message_is_a_delivery_with_its_error(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    block = header_block([("ce-specversion", "1.0"), ("ce-id", "1")])
    broker.connection.written(publication(f"{app}.a".encode(), b"", block, b"body"))
    (delivery,) = await take(source, 1)
    assert delivery.event is None
    assert "source" in str(delivery.error)
    assert delivery.original() == ([("ce-specversion", b"1.0"), ("ce-id", b"1")], b"body")
    source.settle(delivery, DEAD)
    assert await source.flush() == []
    info = await broker.api.consumer(app, f"{app}__bill")
    assert info is not None
    assert info["num_ack_pending"] == 0
    await source.close()


async def test_the_credit_is_never_exceeded_in_items_or_bytes(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(60, size=1000))
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    left = 60
    while left:
        batch = await source.fetch(Credit(7, 4500))
        assert 1 <= len(batch) <= 7
        assert sum(delivery.size for delivery in batch) <= 4500
        info = await broker.api.consumer(app, f"{app}__bill")
        assert info is not None
        assert info["num_ack_pending"] <= 60 - left + 7
        for delivery in batch:
            source.settle(delivery, ACK)
        left -= len(batch)
        await source.flush()
    await source.close()


async def test_a_message_larger_than_all_byte_credit_passes_alone(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", [*events(2), *events(1, first=2, size=200_000), *events(2, first=3)])
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    seen: list[str] = []
    async with asyncio.timeout(30):
        while len(seen) < 5:
            batch = await source.fetch(Credit(10, 5000))
            assert len(batch) == 1 or sum(delivery.size for delivery in batch) <= 5000
            for delivery in batch:
                source.settle(delivery, ACK)
            seen += ids(batch)
    assert sorted(seen) == list("01234")
    await source.close()


async def test_a_fetch_that_waits_asks_for_more_when_the_credit_grows(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    waiting = asyncio.create_task(source.fetch(Credit(1, 1 << 20)))
    await asyncio.sleep(0)
    source.ask(Credit(40, 1 << 20))
    async with asyncio.timeout(20):
        while (info := await broker.api.consumer(app, f"{app}__bill")) is None or info["num_waiting"] < 2:
            await asyncio.sleep(0.01)
    await publish(broker, f"{app}.a", events(40))
    async with asyncio.timeout(20):
        while info is None or info["num_ack_pending"] < 40:
            # All of it is on its way to us before the next fetch asks for any.
            info = await broker.api.consumer(app, f"{app}__bill")
    seen = ids(await waiting)
    assert len(seen) == 1
    while len(seen) < 40:
        seen += ids(await source.fetch(Credit(40, 1 << 20)))
    assert sorted(seen, key=int) == [str(n) for n in range(40)]
    await source.close()


async def test_a_pull_whose_messages_all_wait_to_be_taken_owes_no_sign_of_life(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(40))
    source = broker.channel(f"{app}.a", binding(broker))
    assert isinstance(source, JetStreamSource)
    await source.open()
    pulls = source._pulls
    batch = await source.fetch(Credit(40, 64 << 20))
    async with asyncio.timeout(20):
        while len(batch) + len(pulls.untaken()) < 40:
            await asyncio.sleep(0.01)
    later = asyncio.get_running_loop().time() + 20
    assert pulls.untaken()
    assert not pulls.silent(later)
    pulls.ask(Credit(50, 64 << 20))
    assert pulls.silent(later), "of ten more nothing was heard"
    await source.close()


async def test_a_batch_is_a_part_of_what_may_be_held(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    bound = binding(broker)
    await publish(broker, f"{app}.a", events(1000))
    source = broker.channel(f"{app}.a", bound)
    await source.open()
    held = bound.prefetch.items + bound.concurrency
    left = 1000
    while left:
        batch = await source.fetch(Credit(held, 64 << 20))
        assert 1 <= len(batch) <= held // 4
        for delivery in batch:
            source.settle(delivery, ACK)
        left -= len(batch)
    await source.close()


async def test_a_lone_message_is_not_kept_waiting_for_company(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    for n in range(5):
        waiting = asyncio.create_task(handle(source, 1))
        await asyncio.sleep(0.02)
        await publish(broker, f"{app}.a", events(1, first=n))
        assert await waiting == [str(n)]
    await source.close()


async def test_retry_comes_again_after_its_delay_and_counts_deliveries(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(1))
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    (first,) = await take(source, 1)
    began = asyncio.get_running_loop().time()
    source.settle(first, Outcome("retry", delay=0.3))
    (second,) = await take(source, 1)
    assert asyncio.get_running_loop().time() - began >= 0.29
    assert second.redelivered
    assert second.metadata["deliveries"] == 2
    source.settle(second, DROP)
    assert await source.flush() == []
    assert await nothing_comes(source, 0.3)
    await source.close()


async def test_what_is_handed_back_goes_to_another_replica_at_once(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker, other = await connect(server), await connect(server)
    await publish(broker, f"{app}.a", events(6))
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    held = await take(source, 2)
    source.settle(held[0], ACK)
    source.settle(held[1], HAND_BACK)
    await source.flush()
    await source.close()
    second = other.channel(f"{app}.a", binding(other))
    await second.open()
    assert sorted(await handle(second, 5)) == ["1", "2", "3", "4", "5"]
    await second.close()


async def test_a_cancelled_fetch_loses_nothing(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    fetching = asyncio.create_task(source.fetch(CREDIT))
    await asyncio.sleep(0.05)
    publishing = asyncio.create_task(publish(broker, f"{app}.a", events(10)))
    fetching.cancel()
    await publishing
    await asyncio.gather(fetching, return_exceptions=True)
    assert sorted(await handle(source, 10), key=int) == [str(n) for n in range(10)]
    await source.close()


async def test_settled_while_the_server_was_paused_is_proved_afterwards(
    own_server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(own_server)
    await publish(broker, f"{app}.a", events(5))
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    held = await take(source, 5)
    own_server.pause()
    for delivery in held:
        source.settle(delivery, ACK)
    flushing = asyncio.create_task(source.flush())
    await asyncio.sleep(0.3)
    assert not flushing.done()
    own_server.resume()
    assert await flushing == []
    info = await broker.api.consumer(app, f"{app}__bill")
    assert info is not None
    assert info["ack_floor"]["stream_seq"] == 5
    await source.close()


async def test_a_killed_and_restarted_server_loses_no_event_and_no_ack(
    own_server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(own_server)
    await publish(broker, f"{app}.a", events(200))
    source = broker.channel(f"{app}.a", binding(broker, prefetch=Credit(32, 1 << 20)))
    await source.open()
    seen = set(await handle(source, 60))
    held = await take(source, 10)
    own_server.kill()
    for delivery in held:
        source.settle(delivery, ACK)
    own_server.start()
    seen |= set(ids(held))
    async with asyncio.timeout(60):
        while len(seen) < 200:
            batch = await source.fetch(CREDIT)
            for delivery in batch:
                source.settle(delivery, ACK)
            seen |= set(ids(batch))
    assert await source.flush() == []
    assert source.progress().reconnects == 1
    await source.close()


async def test_a_second_handler_of_a_work_queue_stream_is_refused(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await broker.api.call(
        f"STREAM.CREATE.W{app}", {"name": f"W{app}", "subjects": [f"{app}.>"], "retention": "workqueue"}
    )
    first = broker.channel(f"{app}.a", binding(broker, "one", handlers=("one", "two")))
    await first.open()
    second = broker.channel(f"{app}.a", binding(broker, "two", handlers=("one", "two")))
    with pytest.raises(ConfigurationError, match="work queue"):
        await second.open()
    await first.close()


async def test_replicas_that_start_at_once_share_the_consumer_of_a_work_queue(
    server: NatsServer, connect: Connect, app: str
) -> None:
    brokers = [await connect(server) for _ in range(6)]
    config = {"name": f"W{app}", "subjects": [f"{app}.>"], "retention": "workqueue"}
    for _ in range(10):
        await brokers[0].api.call(f"STREAM.CREATE.W{app}", config)
        sources = [broker.channel(f"{app}.a", binding(broker)) for broker in brokers]
        await asyncio.gather(*(source.open() for source in sources))
        await asyncio.gather(*(source.close() for source in sources))
        await brokers[0].api.call(f"STREAM.DELETE.W{app}")


async def test_a_renamed_handler_is_refused_with_both_remedies(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(1))
    old = broker.channel(f"{app}.a", binding(broker, "bill"))
    await old.open()
    await old.close()
    renamed = broker.channel(f"{app}.a", binding(broker, "charge"))
    with pytest.raises(RefusedError, match=r"name='bill'.*nats consumer rm"):
        await renamed.open()


async def test_two_handlers_of_a_channel_each_see_everything(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(10))
    for name in ("one", "two"):
        source = broker.channel(f"{app}.a", binding(broker, name, handlers=("one", "two")))
        await source.open()
        assert len(await handle(source, 10)) == 10
        await source.close()


async def test_start_latest_sees_only_what_comes_later(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(3))
    source = broker.channel(f"{app}.a", binding(broker, start="latest"))
    await source.open()
    await publish(broker, f"{app}.a", events(1, first=3))
    assert await handle(source, 1) == ["3"]
    await source.close()


async def test_a_declared_stream_that_differs_says_in_what(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    await broker.api.call(f"STREAM.CREATE.S{app}", {"name": f"S{app}", "subjects": [f"{app}.>"], "storage": "memory"})
    declared = Stream(f"S{app}", subject=f"{app}.a", storage="file")
    with pytest.raises(ConfigurationError, match="storage is 'memory', declared 'file'"):
        await declared.bind(binding(broker)).open()


async def test_a_found_consumer_that_does_not_fit_says_in_what(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    await broker.api.call(f"STREAM.CREATE.S{app}", {"name": f"S{app}", "subjects": [f"{app}.>"]})
    config = {"durable_name": "theirs", "ack_policy": "explicit", "filter_subject": f"{app}.b", "max_deliver": 3}
    await broker.api.create_consumer(f"S{app}", config)
    declared = Stream(f"S{app}", subject=f"{app}.a", durable="theirs")
    with pytest.raises(ConfigurationError, match=rf"reads {app}.b, declared {app}.a; max_deliver is 3"):
        await declared.bind(binding(broker)).open()


async def test_a_found_limit_of_unacknowledged_messages_is_raised(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(1))
    config = {
        "durable_name": f"{app}__bill",
        "ack_policy": "explicit",
        "filter_subject": f"{app}.a",
        "max_ack_pending": 10,
    }
    await broker.api.create_consumer(app, config)
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    info = await broker.api.consumer(app, f"{app}__bill")
    assert info is not None
    assert info["config"]["max_ack_pending"] == (8 + 32) * 4 + 100
    await source.close()


async def test_a_deleted_consumer_is_made_again_at_its_floor(server: NatsServer, connect: Connect, app: str) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(10))
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    assert len(await handle(source, 10)) == 10
    await source._look()  # type: ignore[attr-defined]
    await broker.api.call(f"CONSUMER.DELETE.{app}.{app}__bill")
    await publish(broker, f"{app}.a", events(5, first=10))
    assert await handle(source, 5) == ["10", "11", "12", "13", "14"]
    await source.close()


async def test_a_stream_deleted_and_recreated_is_read_from_its_start(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(5))
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    held = await take(source, 5)
    await broker.api.call(f"STREAM.DELETE.{app}")
    await publish(broker, f"{app}.a", events(3, first=100))
    again = await take(source, 3)
    assert ids(again) == ["100", "101", "102"]
    # Sequences 1 to 3 of the old stream must not acknowledge those of the new one.
    for delivery in held:
        source.settle(delivery, ACK)
    await source.flush()
    info = await broker.api.consumer(app, f"{app}__bill")
    assert info is not None
    assert info["num_ack_pending"] == 3
    await source.close()


async def test_unread_events_that_the_stream_discarded_are_counted(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(20))
    source = broker.channel(f"{app}.a", binding(broker))
    await source.open()
    await source._look()  # type: ignore[attr-defined]
    await broker.api.call(f"STREAM.PURGE.{app}", {"keep": 5})
    await source._look()  # type: ignore[attr-defined]
    progress = source.progress()
    assert progress.expired == 15
    assert "15 unread events were discarded" in progress.detail
    assert len(await handle(source, 5)) == 5
    await source.close()


@pytest.mark.parametrize("keyed", [False, True], ids=["shared", "owned"])
async def test_a_short_time_to_acknowledge_is_renewed_in_time(
    server: NatsServer, connect: Connect, app: str, keyed: bool
) -> None:
    """What is held, and what has arrived and is not fetched yet, comes to nobody else."""
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(6))
    source = Stream(app, subject=f"{app}.a", ack_wait=3.0).bind(binding(broker, keyed=keyed))
    await source.open()
    assert source.extend_every == 1.0
    held = [*(await source.fetch(Credit(1, 1 << 20)))]
    # The next pull asks for all the rest, of which one is fetched.
    held += await source.fetch(Credit(1, 1 << 20))
    for _ in range(8):
        await asyncio.sleep(0.5)  # past the time to acknowledge, in sum
        await source.extend(held)
    info = await broker.api.consumer(app, f"{app}__bill")
    assert info is not None
    assert info["num_redelivered"] == 0
    await source.close()
