"""Members that come, go, and lose what they had."""

import asyncio
import random
import signal
import sys
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest

from headrace.engine.delivery import ACK
from headrace.engine.source import Credit
from headrace.errors import RefusedError
from headrace.kafka import Topic
from headrace.kafka.completed import decode
from headrace.kafka.partition import KafkaDelivery
from headrace.kafka.watch import Watch
from tests.kafka.harness import Harness, Reader, numbers, until

PROTOCOLS = ["classic", "consumer"]


def options(protocol: str) -> dict[str, str]:
    return {"group.protocol": protocol}


def owned(reader: Reader) -> set[int]:
    return {partition.number for partition in reader.source._partitions.values()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_second_member_takes_its_share_and_gives_it_back(at: Harness, protocol: str) -> None:
    await at.make_topic(6)
    first = await at.reader(options=options(protocol))
    await until(lambda: owned(first) == set(range(6)))
    second = await at.reader(options=options(protocol))
    await until(lambda: len(owned(second)) == 3 and len(owned(first)) == 3)
    assert owned(first) | owned(second) == set(range(6))
    await second.close()
    await until(lambda: owned(first) == set(range(6)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_revoked_partition_settles_what_runs_and_voids_what_has_not_begun(at: Harness, protocol: str) -> None:
    await at.make_topic(2)
    for partition in range(2):
        at.fill(10, partition=partition, first=partition * 100)
    first = await at.reader(options=options(protocol))
    got = await first.take(20)
    running = [delivery for delivery in got if delivery.message.offset() in (3, 4)]
    for delivery in running:
        delivery.attempt = 1
    first.ack(delivery for delivery in got if delivery.message.offset() < 3)
    second = await at.reader(options=options(protocol))
    await until(lambda: bool(first.stub.voided))
    (moved,) = {delivery.partition.number for delivery in first.stub.voided}
    assert {d.message.offset() for d in first.stub.voided} == {5, 6, 7, 8, 9}
    assert all(delivery.attempt == 0 for delivery in first.stub.voided)
    assert moved not in owned(second), "what runs has not ended yet"
    first.ack(delivery for delivery in running if delivery.partition.number == moved)
    successors = await second.take(5)
    assert numbers(successors) == [moved * 100 + offset for offset in range(5, 10)]
    assert not any(delivery.redelivered for delivery in successors)
    first.ack(running)


async def test_an_attempt_that_does_not_end_in_time_is_voided_and_the_group_goes_on(
    at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.kafka.farewells.GRACE", 0.3)
    await at.make_topic(2)
    for partition in range(2):
        at.fill(1, partition=partition, first=partition)
    first = await at.reader()
    got = await first.take(2)
    for delivery in got:
        delivery.attempt = 1
    second = await at.reader()
    (again,) = await second.take(1)
    (voided,) = first.stub.voided
    assert numbers([again]) == numbers([voided])
    # Its completion, when it comes after all, is discarded.
    first.source.settle(voided, ACK)
    await first.source.flush()
    commit = (await at.committed())[again.partition.number]
    assert commit[0] == 0


async def test_partitions_stay_where_they_are_when_others_move(at: Harness) -> None:
    await at.make_topic(4)
    at.fill(400, keys=40)
    first = await at.reader()
    got = await first.take(400)
    for delivery in got:
        delivery.attempt = 1
    second = await at.reader()
    await asyncio.sleep(0)
    await until(lambda: len(first.source._farewells._under_way) == 1)
    kept = owned(first)
    assert len(kept) == 2
    stay = [delivery for delivery in got if delivery.partition.number in kept]
    first.ack(stay)
    assert not any(delivery.voided for delivery in stay)
    first.ack(got)
    await until(lambda: len(owned(second)) == 2)


async def test_a_static_member_comes_back_to_its_partitions_without_a_rebalance(at: Harness) -> None:
    await at.make_topic(4)
    static = {"session.timeout.ms": "20000"}
    first = await at.reader(topic=Topic(at.topic, instance="one", options=static))
    second = await at.reader(topic=Topic(at.topic, instance="two", options=static))
    await until(lambda: len(owned(first)) == 2 and len(owned(second)) == 2)
    mine, rebalances = owned(second), first.source.rebalances
    await second.close()
    back = await at.reader(topic=Topic(at.topic, instance="two", options=static))
    await until(lambda: owned(back) == mine)
    assert first.source.rebalances == rebalances


async def test_two_processes_with_one_instance_id_are_told_apart(at: Harness) -> None:
    await at.make_topic(2)
    first = await at.reader(topic=Topic(at.topic, instance="one"))
    await until(lambda: len(owned(first)) == 2)
    await at.reader(topic=Topic(at.topic, instance="one"))
    with pytest.raises(RefusedError, match=r"group\.instance\.id"):
        async with asyncio.timeout(30):
            await first.source.fetch(Credit(1, 1))


async def test_lost_partitions_are_cancelled_at_once_and_not_committed(at: Harness) -> None:
    await at.make_topic()
    at.fill(10)
    short = {"session.timeout.ms": "1500", "heartbeat.interval.ms": "300", "max.poll.interval.ms": "2000"}
    first = await at.reader(options=short)
    got = await first.take(10)
    for delivery in got:
        delivery.attempt = 1
    before = (await at.committed())[0]
    # The poll thread stands still for longer than the group allows.
    stuck = asyncio.Event()
    group = first.source._group
    assert group is not None

    import time

    group.call(lambda consumer: time.sleep(3.5))
    second = await at.reader(options=short)
    again = await second.take(10)
    stuck.set()
    await until(lambda: len(first.stub.voided) == 10)
    first.ack(got)
    await first.source.flush()
    assert numbers(again) == list(range(10))
    assert all(delivery.redelivered for delivery in again), "they may still be running there"
    assert decode((await at.committed())[0][1]) is not None
    assert (await at.committed())[0][0] == before[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", [1, 2])
async def test_members_join_and_leave_and_order_per_key_holds(at: Harness, protocol: str, seed: int) -> None:
    """Every event is handled once, in order per key, by whichever member: all ends are clean."""
    draw = random.Random(seed)
    await at.make_topic(6)
    total = 6000
    at.fill(total, keys=60)
    history: dict[str, list[int]] = defaultdict(list)
    handled: set[int] = set()

    async def member(reader: Reader, leaving: asyncio.Event) -> None:
        waiting: list[KafkaDelivery] = []
        while not leaving.is_set() and len(handled) < total:
            fetching = asyncio.ensure_future(reader.source.fetch(Credit(60, 1 << 20)))
            await asyncio.wait([fetching], timeout=0.1)
            if not fetching.done():
                fetching.cancel()
                await asyncio.gather(fetching, return_exceptions=True)
                if fetching.cancelled():
                    continue
            for delivery in fetching.result():
                assert isinstance(delivery, KafkaDelivery)
                delivery._runner = reader.stub
                waiting.append(delivery)
            await work(reader, waiting)
            waiting = [delivery for delivery in waiting if delivery.voided is None and delivery.attempt == 0]
        await reader.close()

    async def work(reader: Reader, waiting: list[KafkaDelivery]) -> None:
        lanes: dict[Any, list[KafkaDelivery]] = defaultdict(list)
        for delivery in waiting:
            lanes[reader.source.default_key(delivery)].append(delivery)

        async def walk(lane: list[KafkaDelivery]) -> None:
            for delivery in lane:
                if delivery.voided is not None:
                    continue
                delivery.attempt = 1
                await asyncio.sleep(draw.random() * 0.002)
                if delivery.voided is None:
                    (number,) = numbers([delivery])
                    history[delivery.message.key().decode()].append(number)
                    handled.add(number)
                    reader.source.settle(delivery, ACK)

        await asyncio.gather(*(walk(lane) for lane in lanes.values()))

    tasks: list[asyncio.Task[None]] = []
    leaving: list[asyncio.Event] = []

    async def join() -> None:
        leave = asyncio.Event()
        reader = await at.reader(options=options(protocol))
        leaving.append(leave)
        tasks.append(asyncio.create_task(member(reader, leave)))

    await join()
    await join()
    async with asyncio.timeout(100):
        while len(handled) < total:
            await asyncio.sleep(draw.random())
            for task in tasks:
                if task.done():
                    task.result()
            staying = [leave for leave in leaving if not leave.is_set()]
            if len(staying) > 1 and draw.random() < 0.5:
                draw.choice(staying).set()
            elif len(staying) < 4:
                await join()
    for leave in leaving:
        leave.set()
    await asyncio.gather(*tasks)
    for key, seen in history.items():
        assert seen == sorted(set(seen)), f"{key}: {[pair for pair in pairwise(seen) if pair[0] >= pair[1]]}"
    assert handled == set(range(total))
    assert sum(offset for offset, _ in (await at.committed()).values()) == total


async def test_a_commit_that_was_made_before_its_partition_moved_is_not_sent_after(at: Harness) -> None:
    """It would overwrite what the last owner said at the end, or what the new one has said since."""
    await at.make_topic(2)
    for partition in range(2):
        at.fill(5, partition=partition, first=partition * 10)
    reader = await at.reader()
    got = await reader.take(10)
    await until(lambda: not any(partition.dirty for partition in reader.source._partitions.values()))
    group = reader.source._group
    assert group is not None
    moved = group.ownership.assigned.pop((at.topic, 0))
    reader.ack(got)
    await reader.source.flush()
    commits = await at.committed()
    assert (commits[0][0], commits[1][0]) == (0, 5)
    group.ownership.assigned[at.topic, 0] = moved


async def test_a_consumer_that_is_alive_and_brings_nothing_is_rebuilt(
    at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Watch.__init__.__kwdefaults__, "every", 0.5)
    await at.make_topic()
    at.fill(5)
    reader = await at.reader()
    reader.ack(await reader.take(5))
    group = reader.source._group
    assert group is not None
    # Stands for whatever makes a client fetch no more and say nothing.
    await asyncio.wrap_future(group.call(lambda consumer: consumer.pause(consumer.assignment())))
    at.fill(5, first=5)
    assert numbers(await reader.take(5, seconds=60)) == [5, 6, 7, 8, 9]
    assert reader.source.progress().reconnects == 1


DEAD_MEMBER = """
import os, signal, sys
from confluent_kafka import Consumer
consumer = Consumer({"bootstrap.servers": sys.argv[1], "group.id": sys.argv[2], "group.instance.id": "one",
                     "group.protocol": "consumer"})
consumer.subscribe([sys.argv[3]], on_assign=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
while True:
    consumer.poll(1)
"""


async def test_a_static_member_of_the_new_protocol_waits_for_the_end_of_the_one_that_was_killed(
    at: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    await at.make_topic()
    at.fill(3)
    group = f"{at.app}__bill"
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", DEAD_MEMBER, at.bootstrap, group, at.topic)
    assert await asyncio.wait_for(killed.wait(), 60) == -signal.SIGKILL
    reader = await at.reader(topic=Topic(at.topic, instance="one", options={"group.protocol": "consumer"}))
    await until(lambda: "still holds a member" in reader.source.progress().detail or bool(owned(reader)))
    assert "still holds a member with the group.instance.id one" in caplog.text
    assert numbers(await reader.take(3)) == [0, 1, 2]
    assert reader.source.progress().detail == ""
