"""What a partition's limits let through, and when they are renewed."""

from __future__ import annotations

from typing import Any, cast

import pytest

from headrace.engine.source import Credit, Source
from headrace.kafka.commits import Commits
from headrace.kafka.intake import Intake
from headrace.kafka.offsets import Offsets
from headrace.kafka.partition import Partition

BYTES = 1 << 30


class Record:
    """A record of partition 0, as far as the intake asks."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def __len__(self) -> int:
        return 2

    def offset(self) -> int:
        return self._offset

    def partition(self) -> int:
        return 0

    def key(self) -> None:
        return None

    def value(self) -> bytes:
        return b"{}"

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def headers(self) -> list[tuple[str, bytes]]:
        return [("ce_specversion", b"1.0"), ("ce_id", b"%d" % self._offset), ("ce_source", b"/s"), ("ce_type", b"t")]


class Asked:
    """Stands for the commits: counts how often one was asked for."""

    def __init__(self) -> None:
        self.times = 0

    def soon(self) -> None:
        self.times += 1

    def pause(self, partition: Partition, paused: bool) -> None:
        partition.paused = paused


class Bench:
    """An intake with one partition whose first commit was confirmed."""

    def __init__(self, records: int) -> None:
        self.asked = Asked()
        self.partition = Partition("orders", 0, topic_id="t", partitions=1, offsets=Offsets(0), reached=0)
        self.confirm(self.partition.look_ahead())
        self.intake = Intake(
            cast("Source", None),
            {self.partition.key: self.partition},
            cast("Commits", self.asked),
            topic="orders",
            wants_bytes=False,
            took=lambda items, size: None,
        )
        self.intake.buffer.add([Record(offset) for offset in range(records)])

    def confirm(self, reached: int) -> None:
        """The broker has the commit that announced this."""
        self.partition.reached = reached
        self.partition.relimit()

    def take(self, items: int) -> list[Any]:
        return self.intake.collect(Credit(items, BYTES))


def test_a_commit_is_asked_for_before_what_the_last_one_announced_is_used_up() -> None:
    bench = Bench(5000)
    half = bench.partition.limit // 2
    assert len(bench.take(half)) == half
    assert bench.asked.times == 0
    assert len(bench.take(1)) == 1
    assert bench.asked.times == 1
    assert not bench.partition.blocked


def test_one_commit_is_asked_for_until_it_is_confirmed() -> None:
    bench = Bench(5000)
    bench.take(bench.partition.limit // 2 + 1)
    bench.take(100)
    bench.take(100)
    assert bench.asked.times == 1


def test_who_is_fast_enough_to_need_it_early_is_announced_further_ahead() -> None:
    bench = Bench(5000)
    before = bench.partition.window
    bench.take(bench.partition.limit // 2 + 1)
    bench.confirm(bench.partition.look_ahead())
    assert bench.partition.window == 4 * before


def test_nothing_passes_what_was_announced() -> None:
    bench = Bench(5000)
    limit = bench.partition.limit
    assert [delivery.message.offset() for delivery in bench.take(5000)] == list(range(limit))
    assert bench.partition.blocked
    bench.confirm(bench.partition.look_ahead())
    bench.intake.unblock()
    assert bench.take(1)[0].message.offset() == limit


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("gap", [5_000, 30_000, 1_000_000])
@pytest.mark.parametrize("before", [0, 10])
def test_a_gap_of_any_width_is_passed(before: int, gap: int, settled: bool) -> None:
    bench = Bench(before)
    got = bench.take(100)
    assert len(got) == before
    if settled:
        bench.partition.offsets.complete([delivery.token for delivery in got])
    bench.intake.buffer.add([Record(gap + offset) for offset in range(10)])
    assert bench.take(100) == []
    assert bench.partition.blocked
    assert bench.partition.dirty
    bench.confirm(bench.partition.look_ahead())
    bench.intake.unblock()
    assert [delivery.message.offset() for delivery in bench.take(100)] == [gap + offset for offset in range(10)]


def test_a_gap_is_no_speed() -> None:
    bench = Bench(10)
    before = bench.partition.window
    bench.take(10)
    bench.partition.look_ahead()
    bench.intake.buffer.add([Record(100_000)])
    bench.take(1)
    bench.confirm(bench.partition.look_ahead())
    bench.intake.unblock()
    assert len(bench.take(1)) == 1
    bench.partition.look_ahead()
    assert bench.partition.window <= 4 * before


@pytest.mark.parametrize("handed", [0, 10])
def test_the_window_of_a_slow_consumer_is_not_widened(handed: int) -> None:
    bench = Bench(5000)
    before = bench.partition.window
    bench.take(handed)
    bench.partition.look_ahead()
    assert bench.partition.window == before


def test_however_fast_a_consumer_is_it_leaves_a_bounded_number_of_suspects() -> None:
    bench = Bench(0)
    partition = bench.partition
    for _ in range(20):
        for token in partition.offsets.hand_over_all(list(range(partition.offsets.next, partition.limit))):
            assert token is not None
            partition.offsets.complete([token])
        partition.hurry()
        bench.confirm(partition.look_ahead())
    assert partition.limit - partition.offsets.next == partition.window == 8192
