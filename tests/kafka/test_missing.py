"""Topics that the cluster does not know at the moment in which it matters."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.kafka.harness import Harness, numbers, until
from tests.kafka.test_rebalance import options, owned


def forget(at: Harness, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Poll threads are told that no topic exists, as a broker tells that has not heard of a new one, until the result is
    called."""
    admin = at.broker.admin
    real, known = admin.topics, threading.Event()

    def topics(names: Sequence[str], **limits: Any) -> dict[str, Any]:
        if threading.current_thread().name.startswith("kafka-") and not known.is_set():
            return dict.fromkeys(names)
        return real(names, **limits)

    monkeypatch.setattr(admin, "topics", topics)
    return known.set


@pytest.mark.parametrize("protocol", ["classic", "consumer", "eager"])
async def test_a_topic_that_is_not_known_at_assignment_is_waited_for_and_then_read(
    at: Harness, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    await at.make_topic(2)
    asked = {"partition.assignment.strategy": "range"} if protocol == "eager" else options(protocol)
    first = await at.reader(options=asked)
    for partition in range(2):
        at.fill(3, partition=partition, first=10 * partition)
    first.ack((await first.take(6))[:1])
    await first.close()
    know = forget(at, monkeypatch)
    reader = await at.reader(options=asked)
    await until(lambda: "does not exist; it is waited for" in reader.source.progress().detail)
    await reader.nothing_for(1.5)
    assert "does not exist; it is waited for" in reader.source.progress().detail
    know()
    assert sorted(numbers(await reader.take(5))) == sorted({0, 1, 2, 10, 11, 12} - set(numbers(first.got[:1])))
    await until(lambda: not reader.source.progress().detail)
    at.fill(1, partition=0, first=3)
    at.fill(1, partition=1, first=13)
    assert sorted(numbers(await reader.take(2))) == [3, 13]


async def test_a_partition_that_goes_unread_is_waited_for_no_longer(
    at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at.make_topic(2)
    forget(at, monkeypatch)
    first = await at.reader()
    group = first.source._group
    assert group is not None
    await until(lambda: len(group.ownership.unread) == 2)
    second = await at.reader()
    await until(lambda: len(group.ownership.unread) == 1)
    await second.close()
    await until(lambda: len(group.ownership.unread) == 2)
    await first.close()
    assert not group.ownership.unread


async def test_a_place_that_is_lost_while_its_topic_is_not_known_is_found_later(
    at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at.make_topic()
    at.fill(3)
    reader = await at.reader()
    await until(lambda: owned(reader) == {0})
    assert numbers(await reader.take(3)) == [0, 1, 2]
    know = forget(at, monkeypatch)
    group = reader.source._group
    assert group is not None

    def lose(consumer: Any) -> None:
        group.ownership._read_from(consumer, at.topic, 0, 1000)

    await asyncio.wrap_future(group.call(lose))
    await until(lambda: "does not exist; it is waited for" in reader.source.progress().detail)
    know()
    await until(lambda: not group.course._astray)
