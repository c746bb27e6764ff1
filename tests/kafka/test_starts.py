"""Where a group begins, and begins again when what it had committed does not fit what it finds."""

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from headrace.errors import ConfigurationError
from headrace.kafka import Topic
from headrace.kafka.completed import decode
from tests.kafka.harness import Harness, Reader, numbers, until


def assigned(reader: Reader) -> set[int]:
    return {partition.number for partition in reader.source._partitions.values()}


async def handle(at: Harness, count: int, **changes: Any) -> list[int]:
    """A reader that handles so many and leaves."""
    reader = await at.reader(**changes)
    got = await reader.take(count)
    reader.ack(got)
    await reader.close()
    return numbers(got)


async def read_records(at: Harness) -> list[int]:
    """Offsets of what partition 0 holds now."""

    def read() -> list[int]:
        consumer = Consumer({"bootstrap.servers": at.bootstrap, "group.id": "raw", "log_level": 0})
        try:
            _, end = consumer.get_watermark_offsets(TopicPartition(at.topic, 0), timeout=10)
            consumer.assign([TopicPartition(at.topic, 0, 0)])
            found: list[int] = []
            while not found or found[-1] < end - 1:
                message = consumer.poll(10)
                assert message is not None
                assert message.error() is None
                found.append(int(message.offset() or 0))
            return found
        finally:
            consumer.close()

    return await asyncio.to_thread(read)


async def delete_records(at: Harness, before: int) -> None:
    """What retention does, at once."""
    (asked,) = at.broker.admin.client.delete_records([TopicPartition(at.topic, 0, before)]).values()
    await asyncio.to_thread(asked.result, 10)


async def delete_topic(at: Harness) -> None:
    (asked,) = at.broker.admin.client.delete_topics([at.topic]).values()
    await asyncio.to_thread(asked.result, 10)

    async def gone() -> bool:
        return not await at.facts(at.topic)

    await until(gone)


# Start positions


async def test_latest_skips_what_was_there(at: Harness) -> None:
    await at.make_topic()
    at.fill(10)
    reader = await at.reader(start="latest")
    await until(lambda: assigned(reader) == {0})
    at.fill(5, first=10)
    assert numbers(await reader.take(5)) == [10, 11, 12, 13, 14]


async def test_latest_is_the_moment_of_opening_however_long_the_group_takes_to_be_joined(at: Harness) -> None:
    await at.make_topic(2)
    at.fill(10)
    reader = await at.reader(start="latest")
    at.fill(5, first=10)
    assert sorted(numbers(await reader.take(5))) == [10, 11, 12, 13, 14]


async def test_the_place_where_latest_began_holds_though_nothing_came(at: Harness) -> None:
    await at.make_topic()
    at.fill(10)
    reader = await at.reader(start="latest")
    await until(lambda: assigned(reader) == {0})
    await reader.close()
    at.fill(5, first=10)
    reader = await at.reader(start="latest")
    assert numbers(await reader.take(5)) == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("kind", ["datetime", "text"])
async def test_a_time_begins_at_the_first_record_of_that_time(at: Harness, kind: str) -> None:
    await at.make_topic()
    begun = time.time() - 3600
    for number in range(10):
        at.write(b"%d" % number, timestamp=int((begun + number * 60) * 1000))
    at.delivered()
    moment = datetime.fromtimestamp(begun + 7 * 60 - 1, UTC)
    reader = await at.reader(start=moment if kind == "datetime" else moment.isoformat())
    assert numbers(await reader.take(3)) == [7, 8, 9]


async def test_a_time_after_the_last_record_begins_at_the_end(at: Harness) -> None:
    await at.make_topic()
    at.fill(5)
    reader = await at.reader(start=datetime.fromtimestamp(time.time() + 3600, UTC))
    await until(lambda: assigned(reader) == {0})
    at.fill(1, first=5)
    assert numbers(await reader.take(1)) == [5]


async def test_explicit_offsets_begin_there_and_other_partitions_at_their_beginning(at: Harness) -> None:
    await at.make_topic(3)
    for partition in range(3):
        at.fill(5, partition=partition, first=partition * 10)
    reader = await at.reader(start={0: 3, 1: 99})
    assert sorted(numbers(await reader.take(7))) == [3, 4, 20, 21, 22, 23, 24]


async def test_a_group_that_has_committed_is_not_asked_where_to_start(at: Harness) -> None:
    await at.make_topic()
    at.fill(10)
    assert await handle(at, 10) == list(range(10))
    at.fill(2, first=10)
    assert await handle(at, 2, start="latest") == [10, 11]


# Patterns


async def test_a_pattern_reads_every_topic_that_fits_and_those_that_come_later(at: Harness) -> None:
    for name in ("eu", "us"):
        await at.make_topic(name=f"{at.app}.orders.{name}")
        at.fill(2, topic=f"{at.app}.orders.{name}", first=10)
    await at.make_topic(name=f"{at.app}.other")
    at.fill(1, topic=f"{at.app}.other")
    declared = Topic(f"^{at.app}\\.orders\\..*", options={"topic.metadata.refresh.interval.ms": "500"})
    reader = await at.reader(topic=declared, start="earliest")
    got = await reader.take(4)
    await at.make_topic(name=f"{at.app}.orders.asia")
    at.fill(2, topic=f"{at.app}.orders.asia", first=20)
    got += await reader.take(2)
    assert sorted(numbers(got)) == [10, 10, 11, 11, 20, 21]
    # Lanes of two topics are two, though partition and key are the same.
    lanes = {delivery.partition.lane for delivery in got}
    assert len(lanes) == 3


# Offsets moved while nobody ran


async def test_a_commit_moved_lower_is_read_again_from_there(at: Harness) -> None:
    await at.make_topic()
    at.fill(20)
    reader = await at.reader()
    got = await reader.take(20)
    reader.ack(got[:10] + got[15:])
    await reader.close()
    await at.move({0: 4})
    # Somebody wants it again: what was done beyond the old commit is no longer held against it.
    assert await handle(at, 16) == list(range(4, 20))


async def test_a_commit_moved_higher_skips_what_is_below(at: Harness) -> None:
    await at.make_topic()
    at.fill(20)
    await handle(at, 20)
    await at.move({0: 2})
    reader = await at.reader()
    reader.ack((await reader.take(18))[:3])
    await reader.close()
    await at.move({0: 12})
    assert await handle(at, 8) == list(range(12, 20))


async def test_a_commit_moved_beyond_the_end_reads_what_comes_and_says_so(
    at: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    await at.make_topic()
    at.fill(5)
    await handle(at, 5)
    await at.move({0: 500})
    reader = await at.reader()
    await until(lambda: assigned(reader) == {0})
    at.fill(1, first=5)
    assert numbers(await reader.take(1)) == [5]
    assert "before the committed offset 500" in caplog.text


async def test_without_its_commits_a_group_begins_at_its_start_position(at: Harness) -> None:
    await at.make_topic()
    at.fill(10)
    await handle(at, 10)
    await at.remove_commits()
    assert await handle(at, 10) == list(range(10))


# What is gone, and what never was


async def test_records_that_retention_removed_meanwhile_are_counted(
    at: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    await at.make_topic()
    at.fill(20)
    reader = await at.reader()
    got = await reader.take(20)
    reader.ack([*got[:5], *got[14:17]])
    await reader.close()
    await delete_records(at, 12)
    reader = await at.reader()
    assert numbers(await reader.take(5)) == [12, 13, 17, 18, 19]
    assert reader.source.progress().expired == 7
    assert "up to 7 events were removed by retention" in caplog.text


async def test_records_removed_under_a_reader_are_counted_and_it_goes_on(at: Harness) -> None:
    await at.make_topic(config={"max.message.bytes": "2000000"})
    # The consumer's own queue holds little, so that it has to ask for what is gone.
    options = {"queued.min.messages": "1", "queued.max.messages.kbytes": "64", "fetch.message.max.bytes": "20000"}
    for number in range(3000):
        at.write(b"%d" % number, headers={"padding": b"x" * 10_000})
    at.delivered()
    reader = await at.reader(options=options)
    await reader.take(1)
    await delete_records(at, 2900)
    while 2999 not in numbers(reader.got[-1:]):
        await reader.take(1)
    seen = numbers(reader.got)
    assert seen[-100:] == list(range(2900, 3000))
    assert seen == sorted(set(seen))
    missed = 3000 - len(seen)
    assert missed > 0
    assert sum(partition.expired for partition in reader.source._partitions.values()) == missed
    assert reader.source.progress().expired == missed


async def test_gaps_of_compaction_are_no_hindrance(at: Harness) -> None:
    config = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.01",
        "delete.retention.ms": "100",
    }
    await at.make_topic(config=config)
    at.fill(600, keys=20)
    reader = await at.reader()
    got = await reader.take(600)
    # The even ones are done; the rest comes again to the successor, as far as it is still there.
    reader.ack(got[::2])
    await reader.close()

    async def compacted() -> bool:
        at.fill(1, keys=1, first=1000)
        return len(await read_records(at)) < 300

    await until(compacted)
    last = (await read_records(at))[-1]
    reader = await at.reader()
    while not reader.got or reader.got[-1].message.offset() < last:
        await reader.take(1)
    got = [delivery.message.offset() for delivery in reader.got]
    assert got == sorted(set(got))
    assert all(offset % 2 for offset in got if offset < 600)
    assert {offset for offset in await read_records(at) if offset % 2 or offset >= 600} <= set(got)
    reader.ack(reader.got)
    await until(lambda: reader.source.progress().lag_events == 0)
    await reader.source.flush()
    assert (await at.committed())[0][0] == last + 1


async def test_aborted_transactions_are_skipped_and_are_no_lag(at: Harness) -> None:
    await at.make_topic()

    def write() -> None:
        producer: Any = Producer({"bootstrap.servers": at.bootstrap, "transactional.id": at.app, "log_level": 0})
        producer.init_transactions(10)
        for turn in range(6):
            producer.begin_transaction()
            for number in range(5):
                producer.produce(at.topic, b"%d" % (turn * 10 + number))
            producer.flush(10)
            (producer.abort_transaction if turn % 2 else producer.commit_transaction)(10)

    await asyncio.to_thread(write)
    reader = await at.reader()
    got = await reader.take(15)
    assert numbers(got) == [turn * 10 + number for turn in (0, 2, 4) for number in range(5)]
    reader.ack(got)
    await until(lambda: reader.source.progress().lag_events == 0)
    await reader.close()
    everything = await at.reader("all", topic=Topic(at.topic, isolation="read_uncommitted"))
    assert len(await everything.take(30)) == 30


# Another topic of the same name


async def test_a_topic_created_again_while_nobody_ran_is_read_from_its_beginning(at: Harness) -> None:
    await at.make_topic()
    at.fill(10)
    reader = await at.reader()
    got = await reader.take(10)
    reader.ack(got[:2] + got[5:])
    sources = {delivery.event.source for delivery in got if delivery.event is not None}
    await reader.close()
    await delete_topic(at)
    await at.make_topic()
    at.fill(20, first=100)
    reader = await at.reader()
    got = await reader.take(20)
    assert numbers(got) == list(range(100, 120))
    assert sources.isdisjoint(delivery.event.source for delivery in got if delivery.event is not None)


async def test_a_topic_created_again_under_a_reader_is_read_from_its_beginning(
    at: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await at.make_topic(2)
    for partition in range(2):
        at.fill(10, partition=partition, first=partition * 10)
    reader = await at.reader(options={"topic.metadata.refresh.interval.ms": "500"})
    reader.ack(await reader.take(20))
    await reader.source.flush()
    await delete_topic(at)
    await until(lambda: "does not exist" in reader.source.progress().detail or not assigned(reader))
    await at.make_topic(2)
    at._producer = None
    for partition in range(2):
        at.fill(5, partition=partition, first=100 + partition * 10)
    got = await reader.take(10, seconds=90)
    assert sorted(numbers(got)) == [100, 101, 102, 103, 104, 110, 111, 112, 113, 114]
    reader.ack(got)
    await reader.source.flush()
    commits = await at.committed()
    assert {number: offset for number, (offset, _) in commits.items()} == {0: 5, 1: 5}
    record = decode(commits[0][1])
    facts = (await asyncio.to_thread(at.broker.admin.topics, [at.topic]))[at.topic]
    assert facts is not None
    assert record is not None
    assert record.topic_id == facts.id


@pytest.mark.parametrize("start", ["earliest", {0: 4}, "2999-01-01T00:00:00Z"])
async def test_a_topic_created_again_with_more_than_was_read_of_the_old_one_is_read_from_its_beginning(
    at: Harness, caplog: pytest.LogCaptureFixture, start: Any
) -> None:
    await at.make_topic()
    at.fill(4)
    reader = await at.reader(start=start)
    await until(lambda: assigned(reader) == {0})
    at.fill(4, first=4)
    reader.ack(await reader.take(8 if start == "earliest" else 4))
    await reader.source.flush()
    await delete_topic(at)
    await at.make_topic()
    at._producer = None
    at.fill(20, first=100)
    facts = (await asyncio.to_thread(at.broker.admin.topics, [at.topic]))[at.topic]
    assert facts is not None
    anew: list[int] = []
    while len(anew) < 20:
        got = await reader.take(1, seconds=60)
        reader.ack(got)
        # Some may have come before it was known that this is another topic; those come again.
        anew += numbers(one for one in got if one.partition.topic_id == facts.id)
    assert anew == list(range(100, 120))
    assert "was deleted and created again under this app" in caplog.text
    await reader.source.flush()
    offset, metadata = (await at.committed())[0]
    record = decode(metadata)
    assert record is not None
    assert (offset, record.topic_id) == (20, facts.id)
    assert reader.source.progress().detail == ""


async def test_a_start_position_for_a_partition_that_the_topic_does_not_have_is_refused(at: Harness) -> None:
    await at.make_topic(3)
    with pytest.raises(ConfigurationError, match=r"names partition 7; topic \S+ has 3"):
        await at.reader(start={7: 1})


# Partitions that come later


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_a_partition_that_was_added_is_read_from_its_beginning(at: Harness, protocol: str) -> None:
    from confluent_kafka.admin import NewPartitions

    await at.make_topic(1)
    at.fill(5, partition=0)
    options = {"group.protocol": protocol, "topic.metadata.refresh.interval.ms": "500"}
    reader = await at.reader(start="latest", options=options)
    await until(lambda: assigned(reader) == {0})
    await reader.source.flush()
    (asked,) = at.broker.admin.client.create_partitions([NewPartitions(at.topic, 3)]).values()
    await asyncio.to_thread(asked.result, 10)
    at._producer = None
    for partition in range(3):
        at.fill(3, partition=partition, first=100 + partition * 10)
    # What came into the new ones before anybody knew of them is not lost, whatever the start position says.
    got = await reader.take(9, seconds=60)
    assert sorted(numbers(got)) == [100, 101, 102, 110, 111, 112, 120, 121, 122]
