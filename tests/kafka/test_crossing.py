"""What crosses from the poll thread: nothing stays behind in the inbox."""

import asyncio
from collections import deque
from typing import Any

import pytest

from headrace.errors import HeadraceError
from headrace.kafka.crossing import Ended, Inbox, Item
from tests.kafka.harness import Harness, until


class Emptied(deque[Item]):
    """Items of which the loop takes the last in the very moment in which another is about to come."""

    def append(self, item: Item) -> None:
        self.clear()
        super().append(item)


async def test_an_item_that_comes_as_the_last_one_is_taken_wakes_the_loop() -> None:
    woken = asyncio.Event()
    inbox = Inbox("orders", asyncio.get_running_loop(), wake=woken.set, unheard=lambda: None)
    inbox.items = Emptied()
    inbox.post(Ended(("orders", 0), 1))
    await asyncio.wait_for(woken.wait(), 10)
    woken.clear()
    inbox.post(Ended(("orders", 0), 2))
    await asyncio.wait_for(woken.wait(), 10)


class Bad:
    """A record that cannot be looked at."""

    def __len__(self) -> int:
        return 1

    def partition(self) -> int:
        raise MemoryError("too little")


async def test_an_item_that_cannot_be_taken_ends_the_source_and_holds_nothing_up(at: Harness) -> None:
    await at.make_topic()
    reader = await at.reader()
    group = reader.source._group
    assert group is not None
    unreadable: list[Any] = [Bad()]
    group.inbox.post(unreadable)
    group.inbox.post(Ended((at.topic, 0), 0))
    with pytest.raises(HeadraceError, match="could not be taken: too little"):
        await reader.take(1)
    await until(lambda: not group.inbox.items)
    assert "could not be taken" in reader.source.progress().detail
