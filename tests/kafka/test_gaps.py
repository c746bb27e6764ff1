"""Gaps in a log that are wider than what a commit announces: aborted transactions and what compaction removed."""

import asyncio
from typing import Any

from confluent_kafka import Producer

from tests.kafka.harness import Harness, numbers


async def test_a_wide_gap_of_aborted_records_is_passed(at: Harness) -> None:
    await at.make_topic()

    def write() -> None:
        producer: Any = Producer({"bootstrap.servers": at.bootstrap, "transactional.id": at.app, "log_level": 0})
        producer.init_transactions(10)
        for first, count, commit in ((0, 9000, False), (0, 5, True), (0, 9000, False), (5, 5, True)):
            producer.begin_transaction()
            for number in range(first, first + count):
                producer.produce(at.topic, b"%d" % number)
                producer.poll(0)
            producer.flush(10)
            (producer.commit_transaction if commit else producer.abort_transaction)(10)

    await asyncio.to_thread(write)
    reader = await at.reader()
    # One gap lies before the first record, one between two that are not done.
    got = await reader.take(10)
    assert numbers(got) == list(range(10))
    reader.ack(got[1:])
    await reader.close()
    reader = await at.reader()
    # The map of the former owner holds across the gap.
    assert numbers(await reader.take(1)) == [0]
    await reader.nothing_for(1)
