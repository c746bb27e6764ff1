"""How often the topic of suspects' starts is read while there are many suspects."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace.errors import StoreUnavailable
from headrace.kafka import suspects
from headrace.kafka.producer import Producer, Record
from headrace.kafka.suspects import KafkaSuspects

ORDER = ("/shop", "order-1")


class Written:
    """A producer that confirms everything, or fails."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.fails = False

    async def publish(self, topic: str, records: Sequence[Record]) -> Sequence[Exception | None]:
        if self.fails:
            return [TimeoutError("no answer")] * len(records)
        self.records += records
        return [None] * len(records)


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.read = 0
        self.producer = Written()
        monkeypatch.setattr(suspects, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.suspects = KafkaSuspects(
            "shop", producer=cast("Producer", self.producer), config={}, prepare=self._prepare
        )
        monkeypatch.setattr(self.suspects, "_table", SimpleNamespace(catch_up=self._catch_up))

    async def _prepare(self) -> None:
        """The topic is there."""

    def _catch_up(self) -> None:
        self.read += 1

    async def some(self, batches: int) -> list[Any]:
        """Batches of suspects, from the question to the end."""
        answers: list[Any] = []
        for _ in range(batches):
            answers.append(await self.suspects.recorded("bill", [ORDER]))
            answers.append(await self.suspects.started("bill", [ORDER]))
            await self.suspects.finished("bill", [ORDER])
        return answers


async def test_many_batches_of_suspects_read_the_topic_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    assert await bench.some(50) == [[0], [1]] * 50
    assert bench.read == 1


async def test_what_others_recorded_meanwhile_is_read_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    await bench.some(1)
    bench.now += suspects._FRESH
    await bench.some(1)
    assert bench.read == 2


async def test_each_start_and_each_end_is_written_before_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    await bench.suspects.started("bill", [ORDER])
    await bench.suspects.started("bill", [ORDER])
    assert [record.value for record in bench.producer.records] == [b"1", b"2"]
    await bench.suspects.finished("bill", [ORDER])
    assert bench.producer.records[-1].value is None
    assert await bench.suspects.recorded("bill", [ORDER]) == [0]


async def test_a_start_that_could_not_be_recorded_is_not_counted_when_it_is_recorded_after_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    bench.producer.fails = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await bench.suspects.started("bill", [ORDER])
    bench.producer.fails = False
    assert await bench.suspects.started("bill", [ORDER]) == [1]
    assert [record.value for record in bench.producer.records] == [b"1"]


async def test_an_end_is_written_also_where_an_earlier_end_was_read_after_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    await bench.suspects.started("bill", [ORDER])
    bench.suspects._counts.clear()
    await bench.suspects.finished("bill", [ORDER])
    assert [record.value for record in bench.producer.records] == [b"1", None]


async def test_two_deliveries_of_one_event_are_two_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    assert await bench.suspects.started("bill", [ORDER, ORDER]) == [1, 2]
