"""Partitions that were paused, went to another member, and came back: the client keeps its pause over that."""

import asyncio

import pytest

from tests.kafka.harness import Harness, Reader, numbers, until
from tests.kafka.test_rebalance import PROTOCOLS, options, owned


async def take_until_read(reader: Reader, number: int, seconds: float = 20) -> None:
    """Until a record of this partition has come."""
    async with asyncio.timeout(seconds):
        while not any(delivery.partition.number == number for delivery in reader.got):
            reader.ack(await reader.take(1))


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "eager"])
@pytest.mark.parametrize("why", ["no room", "map"])
async def test_a_partition_that_was_paused_is_read_when_it_comes_back(at: Harness, protocol: str, why: str) -> None:
    await at.make_topic(2)
    asked = {"partition.assignment.strategy": "range"} if protocol == "eager" else options(protocol)
    first = await at.reader(options=asked)
    await until(lambda: owned(first) == {0, 1})
    group = first.source._group
    assert group is not None
    if why == "no room":
        await asyncio.wrap_future(group.call(lambda consumer: group._set_paused(True)))
    else:
        for partition in first.source._partitions.values():
            first.source._commits.pause(partition, True)
    second = await at.reader(options=asked)
    await until(lambda: len(owned(second)) == 1 and len(owned(first)) == 1)
    (moved,) = owned(second)
    if why == "no room":
        await asyncio.wrap_future(group.call(lambda consumer: group._set_paused(False)))
    await second.close()
    await until(lambda: owned(first) == {0, 1})
    at.fill(5, partition=moved)
    await take_until_read(first, moved)


async def test_a_place_that_is_found_anew_is_read_although_it_was_paused(at: Harness) -> None:
    await at.make_topic()
    at.fill(3)
    reader = await at.reader()
    await until(lambda: owned(reader) == {0})
    group = reader.source._group
    assert group is not None

    def go(consumer: object) -> None:
        consumer.pause(consumer.assignment())  # type: ignore[attr-defined]
        group.ownership._read_from(consumer, at.topic, 0, 3)

    await reader.take(3)
    await asyncio.wrap_future(group.call(go))
    at.fill(2, first=3)
    assert numbers(await reader.take(2)) == [3, 4]
