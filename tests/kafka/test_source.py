"""The source on a real broker: what arrives, what is committed, what a successor gets."""

import asyncio
import random
import time

from headrace.engine.delivery import ACK, DEAD, DROP, HAND_BACK, Outcome
from headrace.engine.source import Credit
from headrace.errors import InvalidEvent
from headrace.event import Event
from headrace.kafka.completed import NO_TOPIC_ID, Record, decode, encode
from tests.kafka.harness import Harness, Reader, numbers, until


async def test_events_arrive_as_they_were_sent(at: Harness) -> None:
    await at.make_topic(3)
    headers = [("ce_specversion", "1.0"), ("ce_id", "7"), ("ce_source", "/orders"), ("ce_type", "order.created")]
    headers += [("ce_region", "größe"), ("content-type", "application/json"), ("trace", "x")]
    at.write(b'{"id": "7"}', key="alice", partition=2, headers=headers)
    at.delivered()
    (delivery,) = await (await at.reader()).take(1)
    event = delivery.event
    assert event is not None
    assert event.attributes["region"] == "größe"
    assert (event.id, event.source, event.type, event.data) == ("7", "/orders", "order.created", {"id": "7"})
    assert delivery.metadata["partition"] == 2
    assert delivery.metadata["offset"] == 0
    assert delivery.metadata["record_key"] == "alice"
    assert delivery.source.default_key(delivery) == "2/alice"  # type: ignore[attr-defined]
    assert delivery.original().body == b'{"id": "7"}'
    assert ("trace", b"x") in delivery.original().headers


async def test_an_offset_in_flight_is_never_committed(at: Harness) -> None:
    await at.make_topic()
    at.fill(10)
    reader = await at.reader()
    got = await reader.take(10)
    reader.ack(got[1:4] + got[6:])
    await reader.source.flush()
    offset, metadata = (await at.committed())[0]
    record = decode(metadata)
    assert offset == 0
    assert record is not None
    assert list(record.done) == [(1, 4), (6, 10)]


async def test_a_restart_brings_exactly_what_was_not_completed(at: Harness) -> None:
    await at.make_topic(2)
    at.fill(3000, keys=50)
    draw = random.Random(1)
    handled: set[int] = set()
    for round in range(4):
        reader = await at.reader()
        got = await reader.take(3000 - len(handled))
        assert not handled & set(numbers(got))
        assert handled | set(numbers(got)) == set(range(3000))
        done = got if round == 3 else draw.sample(got, 700)
        reader.ack(done)
        handled |= set(numbers(done))
        await reader.close()
    assert handled == set(range(3000))


async def test_what_was_committed_is_not_repeated_after_an_unclean_end(at: Harness) -> None:
    await at.make_topic()
    at.fill(500)
    reader = await at.reader()
    got = await reader.take(500)
    reader.ack(got[::2])
    await reader.source.flush()
    # What a killed process leaves: the commit, and no farewell.
    commit = (await at.committed())[0]
    await reader.close()
    other = Harness(at.url, at.app)
    await at.leave({0: commit})
    successor = await other.reader()
    again = await successor.take(250)
    assert numbers(again) == list(range(1, 500, 2))
    assert all(delivery.redelivered for delivery in again), "all of it may have been running"
    successor.ack(again)
    await other.close()


async def test_a_clean_end_leaves_no_suspects(at: Harness) -> None:
    await at.make_topic()
    at.fill(100)
    reader = await at.reader()
    got = await reader.take(100)
    reader.ack(got[:50])
    for delivery in got[50:]:
        reader.source.settle(delivery, HAND_BACK)
    await reader.close()
    again = await (await at.reader()).take(50)
    assert numbers(again) == list(range(50, 100))
    assert not any(delivery.redelivered for delivery in again)


async def test_an_unclean_end_makes_suspects_of_what_may_have_run_and_of_nothing_else(at: Harness) -> None:
    await at.make_topic()
    at.fill(5000)
    reader = await at.reader()
    got = await reader.take(10, credit=Credit(10, 1 << 20))
    reader.ack(got[:5])
    await reader.source.flush()
    record = decode((await at.committed())[0][1])
    assert record is not None
    assert record.base == 5
    assert 10 <= record.reached < 2500


#: A member that does not poll for a second is put out of its group.
SHORT = {"session.timeout.ms": "1000", "max.poll.interval.ms": "1000", "heartbeat.interval.ms": "200"}


async def lose_all(reader: Reader) -> None:
    """Have the group put this member out: its partitions are lost."""
    group = reader.source._group
    assert group is not None
    before = group.ownership.rebalances
    await asyncio.wrap_future(group.call(lambda consumer: time.sleep(2.5)))
    await until(lambda: group.ownership.rebalances > before)


async def test_what_a_source_announced_and_lost_is_no_suspect_to_itself(at: Harness) -> None:
    await at.make_topic()
    at.fill(100)
    reader = await at.reader(options=SHORT)
    reader.ack((await reader.take(100))[:10])
    await reader.source.flush()
    await lose_all(reader)
    again = await reader.take(90)
    assert numbers(again) == list(range(10, 100))
    assert not any(delivery.redelivered for delivery in again)


async def test_what_a_dead_owner_left_stays_suspect_when_partitions_are_lost_and_come_back(at: Harness) -> None:
    await at.make_topic()
    at.fill(100)
    await at.leave({0: (0, encode(Record(NO_TOPIC_ID, 1, 0, 50, owner="another1")))})
    reader = await at.reader(options=SHORT)
    for turn in range(2):
        got = await reader.take(100)
        assert [delivery.redelivered for delivery in got] == [True] * 50 + [False] * 50
        if turn == 0:
            await reader.source.flush()
            await lose_all(reader)


async def test_dead_and_dropped_deliveries_are_done_and_a_retry_comes_back(at: Harness) -> None:
    await at.make_topic()
    at.fill(3)
    reader = await at.reader()
    dead, dropped, again = await reader.take(3)
    reader.source.settle(dead, DEAD)
    reader.source.settle(dropped, DROP)
    reader.source.settle(again, Outcome("retry", delay=0.01))
    (back,) = await reader.take(1)
    assert numbers([back]) == [2]
    reader.source.settle(back, ACK)
    await reader.source.flush()
    assert (await at.committed())[0][0] == 3


async def test_two_groups_each_see_everything_and_a_late_one_gets_history(at: Harness) -> None:
    await at.make_topic(2)
    at.fill(100)
    first, second = await at.reader("one"), await at.reader("two")
    assert sorted(numbers(await first.take(100))) == list(range(100))
    at.fill(10, first=100)
    assert sorted(numbers(await second.take(110))) == list(range(110))
    late = await at.reader("late")
    assert sorted(numbers(await late.take(110))) == list(range(110))


async def test_what_is_no_event_is_handled_or_says_why_not(at: Harness) -> None:
    await at.make_topic()
    big = b"x" * 900_000
    ce = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/s", "ce_type": "t"}
    at.write(None, key="gone")
    at.write(b"no key")
    at.write(b"\xff\x00", headers=[("\x01odd", b"\xff\xfe"), ("null", None), ("content-type", b"\xff")])
    at.write(big)
    at.write(b"{}", headers={**ce, "ce_specversion": "9.9"})
    at.write(b"{", headers={"content-type": "application/cloudevents+json"})
    at.write(b'{"a": 1}', headers={"content-type": "application/json"})
    at.write(b'{"a": 1}')
    at.delivered()
    reader = await at.reader()
    absent, unkeyed, garbage, large, version, broken, typed, sniffed = await reader.take(8)
    facts = await asyncio.to_thread(at.broker.admin.topics, [at.topic])
    topic = facts[at.topic]
    assert topic is not None
    assert absent.event is not None
    assert absent.event.raw is None
    assert absent.event.type == at.topic
    assert absent.event.source == f"kafka:{at.topic}/{topic.id}"
    assert absent.event.id == "0/0"
    assert absent.event.time is not None
    assert unkeyed.source.default_key(unkeyed) is None  # type: ignore[attr-defined]
    assert garbage.event is not None
    assert garbage.event.data == b"\xff\x00"
    assert ("null", b"") in garbage.original().headers
    assert large.event is not None
    assert large.event.raw == big
    assert large.size > 900_000
    for delivery in (version, broken):
        assert delivery.event is None
        assert isinstance(delivery.error, InvalidEvent)
    assert version.original().body == b"{}"
    assert ("ce_specversion", b"9.9") in version.original().headers
    for delivery in (typed, sniffed):
        assert delivery.event is not None
        assert delivery.event.datacontenttype == "application/json"
        assert delivery.event.data == {"a": 1}


async def test_a_handler_of_bytes_gets_a_plain_value_unparsed(at: Harness) -> None:
    await at.make_topic()
    at.write(b'{"a": 1}')
    at.delivered()
    (delivery,) = await (await at.reader(wants_bytes=True)).take(1)
    assert delivery.event is not None
    assert delivery.event.datacontenttype is None


async def test_a_batch_keeps_within_the_credit_and_one_large_delivery_passes(at: Harness) -> None:
    await at.make_topic()
    for _ in range(6):
        at.write(b"x" * 100_000)
    at.delivered()
    reader = await at.reader()
    assert len(await reader.take(1, credit=Credit(10, 250_000))) == 2
    assert len(await reader.take(1, credit=Credit(10, 10))) == 1
    assert len(await reader.take(1, credit=Credit(1, 1 << 20))) == 1


async def test_a_fetch_that_is_cancelled_loses_nothing(at: Harness) -> None:
    await at.make_topic()
    reader = await at.reader()
    for _ in range(20):
        waiting = asyncio.ensure_future(reader.source.fetch(Credit(5, 1 << 20)))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if not waiting.cancelled():
            reader.got += waiting.result()  # type: ignore[arg-type]
        at.write(b"%d" % 1)
    at.delivered()
    await reader.take(20 - len(reader.got))
    assert len(reader.got) == 20


async def test_a_fast_producer_does_not_fill_the_memory_of_a_slow_consumer(at: Harness) -> None:
    await at.make_topic(4)
    for _ in range(2000):
        at.write(b"x" * 30_000)
    at.delivered()
    reader = await at.reader()
    await reader.take(10, credit=Credit(10, 1 << 20))
    group = reader.source._group
    assert group is not None
    await until(lambda: not group.room.free)
    await until(lambda: group.ownership.paused)
    held = group.room.crossed_bytes - group.room.taken_bytes
    assert held < 16 * 1024 * 1024 + 2000 * 30_000 // 4
    # And it goes on when there is room.
    reader.got.clear()
    await reader.take(1990)


async def test_lag_is_what_is_not_done_though_one_event_is_stuck_before_it(at: Harness) -> None:
    await at.make_topic()
    at.fill(100)
    reader = await at.reader()
    got = await reader.take(100)
    await until(lambda: reader.source.progress().lag_events == 100)
    reader.ack(got[1:50] + got[60:])
    assert reader.source.progress().lag_events == 11
    await reader.close()
    # What the former owner completed beyond the stuck one is no lag either, before and after it has arrived.
    again = await at.reader()
    await until(lambda: again.source.progress().lag_events == 11)
    again.ack(await again.take(11))
    await until(lambda: again.source.progress().lag_events == 0)


async def test_lag_is_told_in_events_and_seconds(at: Harness) -> None:
    await at.make_topic(2)
    at.fill(100)
    reader = await at.reader()
    got = await reader.take(100)
    await until(lambda: reader.source.progress().lag_events == 100)
    progress = reader.source.progress()
    assert progress.connected
    assert progress.lag_seconds is not None
    assert 0 < progress.lag_seconds < 60
    reader.ack(got)
    assert reader.source.progress().lag_events == 0
    assert reader.source.progress().lag_seconds == 0


async def test_publish_then_consume_is_the_same_event(at: Harness) -> None:
    from headrace.engine.sink import Publication

    sink = at.broker.sink(at.topic)
    await sink.open()
    event = Event("order.created", "/shop", {"n": 1}, subject="s", region="eu")
    await sink.publish([Publication(event, "alice")])
    (delivery,) = await (await at.reader()).take(1)
    assert delivery.event == event.replace(partitionkey="alice")
