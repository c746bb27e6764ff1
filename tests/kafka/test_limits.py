"""What lasts long, what is large, and what does not fit: a stuck key, a handler that takes minutes, a slow consumer."""

import asyncio
import resource
from concurrent.futures import Future
from pathlib import Path

import pytest

from headrace import App, Event, Retry
from headrace.engine.source import Credit
from headrace.errors import ConnectionFailed
from headrace.kafka.admin import Where
from headrace.kafka.completed import LIMIT, decode
from headrace.policy import exponential, none
from tests.kafka.harness import Harness, numbers, until
from tests.kafka.test_answers import Mute

#: The group's patience is cut down, so that a test sees in seconds what takes minutes by default.
IMPATIENT = "?max.poll.interval.ms=2000&session.timeout.ms=1500&heartbeat.interval.ms=300"


def only_source(worker: object, topic: str) -> object:
    (source,) = [s.source for s in worker.runtime.handlers[0].subscriptions if s.source.name.endswith(topic)]  # type: ignore[attr-defined]
    return source


async def test_a_stuck_key_fills_the_map_then_holds_its_partition_up_and_lets_go(at: Harness) -> None:
    """The commit metadata at its limit: one key never ends, thousands of others are completed beyond it, every second
    one of theirs too, which no run lengths shorten."""
    await at.make_topic(2)
    at.fill(40_000, partition=0, keys=2)
    at.fill(300, partition=1, first=100_000)
    reader = await at.reader()
    stuck = []
    done: set[int] = set()

    async def work() -> None:
        while True:
            for delivery in await reader.take(1, credit=Credit(2000, 1 << 26), seconds=60):
                if delivery.partition.number == 0 and (delivery.message.offset() % 2 == 0 and len(stuck) < 6000):
                    stuck.append(delivery)
                else:
                    done.update(numbers([delivery]))
                    reader.ack([delivery])

    working = asyncio.ensure_future(work())
    await until(lambda: "metadata can hold no more" in reader.source.progress().detail, seconds=60)
    await until(lambda: len(done & set(range(100_000, 100_300))) == 300)
    await reader.source.flush()
    offset, metadata = (await at.committed())[0]
    record = decode(metadata)
    assert record is not None
    assert offset == 0
    assert len(metadata) <= LIMIT
    committed = {n for first, last in record.done for n in range(first, last)}
    assert len(committed) > 3000
    assert committed == {n for n in done if n < 100_000}
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    # A restart at this moment: nothing of what was completed comes again, and all the rest does.
    await reader.close()
    second = await at.reader()
    seen: list[int] = []
    while len(seen) < 40_000 - len(committed):
        for delivery in await second.take(1, credit=Credit(5000, 1 << 26), seconds=60):
            seen += numbers([delivery])
            second.ack([delivery])
    assert not committed & set(seen)
    assert committed | set(seen) == set(range(40_000))
    await second.source.flush()
    assert (await at.committed())[0][0] == 40_000
    assert second.source.progress().detail == ""


async def test_the_map_is_full_and_goes_on_when_the_key_clears(at: Harness) -> None:
    await at.make_topic()
    at.fill(60_000, keys=64)
    app = App(at.app, broker=at.url, store="memory://", parked=100_000)
    release = asyncio.Event()
    count = 0

    @app.on(at.topic, timeout=600)
    async def bill(event: Event) -> None:
        nonlocal count
        if event.data == 0:
            await release.wait()
        count += 1

    async with app.running() as worker:
        source = only_source(worker, at.topic)
        # The stuck lane's own events pile up behind it; the map or the prefetch ends that, and says so.
        before = -1
        while before < count or count < 1000:
            before = count
            await asyncio.sleep(1)
        release.set()
        await until(lambda: count == 60_000, seconds=100)
        assert source.rebalances == 1  # type: ignore[attr-defined]
    assert (await at.committed())[0][0] == 60_000


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(6.0, id="short"),
        pytest.param(180.0, id="minutes", marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
async def test_a_lane_that_is_held_keeps_its_member_in_the_group_and_others_flow(at: Harness, seconds: float) -> None:
    await at.make_topic()
    at.fill(200, keys=4)
    app = App(at.app, broker=at.url + IMPATIENT, store="memory://")
    handled: list[int] = []
    failed = 0

    @app.on(at.topic, retry=Retry(attempts=2, backoff=exponential(initial=seconds, maximum=seconds, jitter=none)))
    async def bill(event: Event) -> None:
        nonlocal failed
        if event.data == 0 and not failed:
            failed += 1
            raise ValueError("not yet")
        handled.append(event.data)

    async with app.running() as worker:
        source = only_source(worker, at.topic)
        await until(lambda: len(handled) == 150)
        assert not [number for number in handled if number % 4 == 0], "its lane waits"
        await until(lambda: len(handled) == 200, seconds=seconds + 60)
        assert source.rebalances == 1  # type: ignore[attr-defined]
    lane = [number for number in handled if number % 4 == 0]
    assert lane == sorted(lane)
    assert (await at.committed())[0][0] == 200


async def test_a_lane_that_is_held_behind_a_full_buffer_keeps_its_member_in_the_group(at: Harness) -> None:
    """One key: everything waits behind it, so that the source takes no more and its partitions are paused."""
    await at.make_topic()
    at.fill(20_000, keys=1)
    app = App(at.app, broker=at.url + IMPATIENT, store="memory://", parked=500)
    failed = count = 0

    @app.on(at.topic, retry=Retry(attempts=2, backoff=exponential(initial=6.0, maximum=6.0, jitter=none)))
    async def bill(event: Event) -> None:
        nonlocal failed, count
        if not failed:
            failed += 1
            raise ValueError("not yet")
        count += 1

    async with app.running() as worker:
        source = only_source(worker, at.topic)
        await until(lambda: count == 20_000, seconds=100)
        assert source.rebalances == 1  # type: ignore[attr-defined]
    assert (await at.committed())[0][0] == 20_000


async def test_a_commit_that_is_not_answered_while_there_is_no_room_is_given_up(
    at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.kafka.committing._GIVEN_UP", 0.1)
    await at.make_topic()
    reader = await at.reader()
    await until(lambda: bool(reader.source._partitions))
    await reader.source.flush()
    group = reader.source._group
    assert group is not None
    answer: Future[dict[Where, object]] = Future()
    group.room.fill(1 << 20, 0)
    group.call(lambda consumer: group._committing.begin(Mute(), [(at.topic, 0, 5, "")], answer))
    try:
        with pytest.raises(ConnectionFailed, match="not answered"):
            await asyncio.wait_for(asyncio.wrap_future(answer), 15)
    finally:
        group.room.took(1 << 20, 0)


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_memory_is_bounded_with_a_fast_producer_and_a_slow_handler(at: Harness) -> None:
    """400 MB wait at the broker; the process holds its prefetch, the buffer before it and what the client fetches ahead."""
    await at.make_topic(4)
    for number in range(20_000):
        at.write(b"x" * 20_000, key=f"k{number % 100}")
        if number % 500 == 0:
            await asyncio.to_thread(at.delivered)
    await asyncio.to_thread(at.delivered)
    app = App(at.app, broker=at.url, store="memory://", prefetch_bytes=16 << 20)
    count = 0

    @app.on(at.topic)
    async def bill(data: bytes) -> None:
        nonlocal count
        await asyncio.sleep(0.05)
        count += 1

    before = resident()
    most = 0
    async with app.running():
        while count < 3000:
            await asyncio.sleep(0.05)
            most = max(most, resident() - before)
    # 16 MiB prefetch, 16 MiB buffer, 16 MiB in the client and what one fetch of each partition brings beside it.
    assert most < 150 << 20, f"{most >> 20} MiB"
