"""Keyed consumers on a real server: one owner, order across owners, nothing skipped."""

import asyncio

import pytest

from headrace.engine.delivery import ACK, HAND_BACK
from headrace.engine.source import Credit
from headrace.errors import StoreUnavailable
from headrace.nats import Stream
from headrace.nats.notes import Notes
from headrace.nats.owner import OwnedSource
from tests.nats.conftest import Connect, binding
from tests.nats.flows import CREDIT, events, handle, ids, nothing_comes, publish, take
from tests.nats.server import NatsServer


async def keyed(connect: Connect, server: NatsServer, app: str, **changes: object) -> OwnedSource:
    """One replica of a keyed handler: a connection of its own."""
    broker = await connect(server)
    source = broker.channel(f"{app}.a", binding(broker, keyed=True, **changes))
    assert isinstance(source, OwnedSource)
    await source.open()
    return source


def vanish(source: OwnedSource) -> None:
    """What the server sees of a process that was killed: its connection ends, nothing else is said."""
    source._closing = True
    source._pin.stop()
    assert source._tending is not None
    source._tending.cancel()
    connection = source._connection
    connection.on_connect.clear()
    connection.on_disconnect.clear()
    connection._status = connection.CLOSED
    connection._transport.close()  # type: ignore[union-attr]


async def test_one_replica_gets_everything_in_order_and_the_other_stands_by(
    server: NatsServer, connect: Connect, app: str
) -> None:
    one = await keyed(connect, server, app)
    await publish(one._broker, f"{app}.a", events(100))
    assert await handle(one, 50) == [str(n) for n in range(50)]
    two = await keyed(connect, server, app)
    assert await nothing_comes(two)
    assert await handle(one, 50) == [str(n) for n in range(50, 100)]
    assert one.progress().owner is True
    assert two.progress().owner is False
    await two.close()
    await one.close()


async def test_a_successor_begins_at_the_floor_of_a_dead_owner(server: NatsServer, connect: Connect, app: str) -> None:
    one, two = await keyed(connect, server, app), await keyed(connect, server, app)
    await publish(two._broker, f"{app}.a", events(20))
    held = await take(one, 10)
    for position in (0, 1, 5):
        one.settle(held[position], ACK)
    await one.flush()
    successor = asyncio.create_task(take(two, 18))
    await asyncio.sleep(0.1)
    vanish(one)
    # 0 and 1 are acknowledged; 5 is too, but beyond the floor, so it comes again and the ledger would know it.
    assert ids(await successor) == [str(n) for n in range(2, 20)]
    await two.close()


async def test_a_successor_of_a_dead_owner_takes_over_a_quiet_stream(
    server: NatsServer, connect: Connect, app: str
) -> None:
    one = await keyed(connect, server, app)
    await publish(one._broker, f"{app}.a", events(3))
    await take(one, 3)
    two = await keyed(connect, server, app)
    waiting = asyncio.create_task(take(two, 3))
    await asyncio.sleep(0.1)
    began = asyncio.get_running_loop().time()
    vanish(one)
    assert ids(await waiting) == ["0", "1", "2"]
    # Before ack_wait (30 s) is over: the pin's time to live and a look.
    assert asyncio.get_running_loop().time() - began < 25
    await two.close()


async def test_a_drained_owner_hands_over_without_a_gap(server: NatsServer, connect: Connect, app: str) -> None:
    one, two = await keyed(connect, server, app), await keyed(connect, server, app)
    await publish(one._broker, f"{app}.a", events(20))
    held = await take(one, 8)
    waiting = asyncio.create_task(take(two, 17))
    await asyncio.sleep(0.1)
    for delivery in held[:3]:
        one.settle(delivery, ACK)
    for delivery in held[3:]:
        one.settle(delivery, HAND_BACK)
    assert await one.flush() == []
    await one.close()
    found = await waiting
    assert ids(found) == [str(n) for n in range(3, 20)]
    assert [delivery.voided for delivery in held] == [None] * 8
    await two.close()


async def test_an_owner_that_was_replaced_gives_up_what_it_holds(
    server: NatsServer, connect: Connect, app: str
) -> None:
    one, two = await keyed(connect, server, app), await keyed(connect, server, app)
    await publish(one._broker, f"{app}.a", events(10))
    held = await take(one, 10)
    # As a process that is stopped: its pulls no longer renew the pin.
    one._pin.stop()
    waiting = asyncio.create_task(take(two, 10))
    assert ids(await waiting) == [str(n) for n in range(10)]
    one._pin.hold(one._pulls.next_subject)
    async with asyncio.timeout(30):
        while not all(delivery.voided for delivery in held):
            await asyncio.sleep(0.02)
    assert one.progress().owner is False
    one.settle(held[0], ACK)
    await one.flush()
    info = await two._api.consumer(app, f"{app}__bill")
    assert info is not None
    assert info["num_ack_pending"] == 10
    await one.close()
    await two.close()


async def test_a_live_owner_keeps_its_pin_over_a_quiet_time_without_credit(
    server: NatsServer, connect: Connect, app: str
) -> None:
    one, two = await keyed(connect, server, app), await keyed(connect, server, app)
    await publish(one._broker, f"{app}.a", events(10))
    held = await take(one, 4, credit=Credit(4, 1 << 20))
    waiting = asyncio.create_task(two.fetch(CREDIT))
    await asyncio.sleep(6)
    assert not waiting.done()
    assert not any(delivery.voided for delivery in held)
    assert ids(await take(one, 6)) == [str(n) for n in range(4, 10)]
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await two.close()
    await one.close()


async def test_a_reconnected_owner_goes_on_in_order_without_repeating_what_it_holds(
    own_server: NatsServer, connect: Connect, app: str
) -> None:
    source = await keyed(connect, own_server, app)
    await publish(source._broker, f"{app}.a", events(60))
    held = await take(source, 10)
    cast_socket = source._connection._transport
    assert cast_socket is not None
    cast_socket.close()
    rest = await take(source, 50)
    assert ids(rest) == [str(n) for n in range(10, 60)]
    assert not any(delivery.voided for delivery in held)
    for delivery in (*held, *rest):
        source.settle(delivery, ACK)
    assert await source.flush() == []
    info = await source._api.consumer(app, f"{app}__bill")
    assert info is not None
    assert info["ack_floor"]["stream_seq"] == 60
    await source.close()


async def test_after_a_killed_and_restarted_server_everything_comes_in_order(
    own_server: NatsServer, connect: Connect, app: str
) -> None:
    source = await keyed(connect, own_server, app)
    await publish(source._broker, f"{app}.a", events(200))
    assert await handle(source, 40) == [str(n) for n in range(40)]
    own_server.restart()
    last = 40
    seen = set(range(40))
    async with asyncio.timeout(60):
        while len(seen) < 200:
            for delivery in await source.fetch(CREDIT):
                assert delivery.event is not None
                number = int(delivery.event.id)
                # It may rewind, but it never skips.
                assert number <= last
                last = number + 1
                seen.add(number)
                source.settle(delivery, ACK)
    await source.close()


async def test_a_gap_rewinds_before_anything_behind_it_is_handed_over(
    server: NatsServer, connect: Connect, app: str
) -> None:
    source = await keyed(connect, server, app)
    await publish(source._broker, f"{app}.a", events(30))
    first = await take(source, 5, credit=Credit(5, 1 << 20))
    # Somebody rewinds the consumer behind the owner's back: what comes next is out of line.
    await source._api.call(f"CONSUMER.RESET.{app}.{app}__bill", {"seq": 3})
    found = await take(source, 25)
    assert ids(first) + ids(found) == [str(n) for n in range(30)]
    await source.close()


async def test_a_keyed_consumer_deleted_under_its_owner_goes_on_at_its_floor(
    server: NatsServer, connect: Connect, app: str
) -> None:
    source = await keyed(connect, server, app)
    await publish(source._broker, f"{app}.a", events(10))
    await handle(source, 10)
    await source._look()
    await source._api.call(f"CONSUMER.DELETE.{app}.{app}__bill")
    await publish(source._broker, f"{app}.a", events(5, first=10))
    assert await handle(source, 5) == ["10", "11", "12", "13", "14"]
    await source.close()


async def test_on_older_servers_the_consumer_is_made_again_at_its_floor(
    server: NatsServer, connect: Connect, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OwnedSource, "_server_version", lambda self: (2, 12))
    one, two = await keyed(connect, server, app), await keyed(connect, server, app)
    await publish(two._broker, f"{app}.a", events(20))
    held = await take(one, 10)
    for delivery in held[:4]:
        one.settle(delivery, ACK)
    await one.flush()
    successor = asyncio.create_task(take(two, 16))
    await asyncio.sleep(0.1)
    vanish(one)
    assert ids(await successor) == [str(n) for n in range(4, 20)]
    await two.close()


async def test_a_stand_by_takes_over_though_its_store_did_not_answer_at_first(
    server: NatsServer, connect: Connect, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OwnedSource, "_server_version", lambda self: (2, 12))
    one, two = await keyed(connect, server, app), await keyed(connect, server, app)
    write, outages = two._notes.write_floor, ["no leader"]

    async def write_floor(floor: int, created: str) -> None:
        if outages:
            raise StoreUnavailable(outages.pop())
        await write(floor, created)

    monkeypatch.setattr(Notes, "write_floor", lambda self, floor, created: write_floor(floor, created))
    await publish(two._broker, f"{app}.a", events(20))
    await take(one, 20)
    successor = asyncio.create_task(take(two, 20))
    await asyncio.sleep(0.1)
    vanish(one)
    assert ids(await successor) == [str(n) for n in range(20)]
    assert not outages
    await two.close()


async def test_a_store_that_does_not_answer_while_a_consumer_is_restored_is_waited_for(
    server: NatsServer, connect: Connect, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await keyed(connect, server, app)
    await publish(source._broker, f"{app}.a", events(5))
    await handle(source, 5)
    outages = ["no leader"]

    async def floor(self: Notes, created: str) -> int | None:
        if outages:
            raise StoreUnavailable(outages.pop())
        return None

    monkeypatch.setattr(Notes, "floor", floor)
    await source._api.call(f"STREAM.DELETE.{app}")
    await publish(source._broker, f"{app}.a", events(3, first=100))
    assert await handle(source, 3) == ["100", "101", "102"]
    assert not outages
    await source.close()


async def test_a_defect_while_a_consumer_is_restored_fails_the_source(
    server: NatsServer, connect: Connect, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await keyed(connect, server, app)

    async def odd() -> None:
        raise KeyError("config")

    monkeypatch.setattr(source._recovery, "_restore", odd)
    source._recover("scripted")
    with pytest.raises(KeyError, match="config"):
        await take(source, 1)
    await source.close()


async def test_a_source_that_failed_for_good_stays_so_when_its_consumer_is_restored(
    server: NatsServer, connect: Connect, app: str
) -> None:
    source = await keyed(connect, server, app)
    source._recovered(KeyError("config"))
    source._recover("scripted")
    while source._recovery.running:
        await asyncio.sleep(0.01)
    with pytest.raises(KeyError, match="config"):
        await take(source, 1)
    await source.close()


async def test_a_crash_between_deleting_and_recreating_begins_at_the_stored_floor(
    server: NatsServer, connect: Connect, app: str
) -> None:
    one = await keyed(connect, server, app)
    await publish(one._broker, f"{app}.a", events(10))
    await handle(one, 10)
    created = one._incarnation.created
    await one.close()
    await one._notes.write_floor(6, created)
    await one._api.call(f"CONSUMER.DELETE.{app}.{app}__bill")
    two = await keyed(connect, server, app)
    assert await handle(two, 4) == ["6", "7", "8", "9"]
    await two.close()


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
async def test_a_successor_on_a_stream_that_forgets_what_is_acknowledged_skips_nothing(
    server: NatsServer, connect: Connect, app: str, retention: str
) -> None:
    broker = await connect(server)
    await broker.api.call(
        f"STREAM.CREATE.{app}", {"name": app, "subjects": [f"{app}.>"], "retention": retention, "storage": "file"}
    )
    one, two = await keyed(connect, server, app), await keyed(connect, server, app)
    await publish(broker, f"{app}.a", events(20))
    held = await take(one, 10)
    for position in (0, 1, 5):
        one.settle(held[position], ACK)
    await one.flush()
    successor = asyncio.create_task(take(two, 17))
    await asyncio.sleep(0.1)
    vanish(one)
    # 5 was acknowledged beyond the floor: the stream has forgotten it, so it cannot come again.
    assert ids(await successor) == [str(n) for n in (2, 3, 4, *range(6, 20))]
    await two.close()


async def test_what_is_in_hand_and_delivered_again_without_a_rewind_is_not_handed_over_twice(
    server: NatsServer, connect: Connect, app: str
) -> None:
    broker = await connect(server)
    await publish(broker, f"{app}.a", events(3))
    declared = Stream(app, subject=f"{app}.a", subjects=[app, f"{app}.>"], ack_wait=1.0)
    source = declared.bind(binding(broker, keyed=True))
    await source.open()
    held = await take(source, 3)
    first = [delivery.metadata["consumer_sequence"] for delivery in held]
    # Nobody extends them: the server delivers them again, to us.
    assert await nothing_comes(source, 2.5)
    again = [delivery.metadata["consumer_sequence"] for delivery in held]
    assert max(first) < min(again), "they did not come again"  # type: ignore[type-var]
    for delivery in held:
        source.settle(delivery, ACK)
    assert not await source.flush()
    info = await broker.api.consumer(app, f"{app}__bill")
    assert info is not None
    assert info["num_ack_pending"] == 0
    await source.close()
