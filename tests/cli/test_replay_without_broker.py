"""``headrace dlq replay`` of an app that has no broker: its worker finds the letter in the file that keeps it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from headrace import App, Delivery, Event, Reject
from headrace.engine import replays
from headrace.engine.broker import Binding
from headrace.engine.source import Source
from headrace.memory.broker import Channel, MemorySource
from tests.cli.command import Command


class Ticks:
    """A source that needs no broker."""

    name = "ticks"

    def __init__(self) -> None:
        self.channel = Channel()

    def bind(self, binding: Binding) -> Source:
        return MemorySource("ticks", self.channel, binding)


class Shop:
    """The app, whose handler rejects until it is told otherwise."""

    def __init__(self, url: str) -> None:
        self.app = App("shop", store=url)
        self.ticks = Ticks()
        self.strict = True
        self.seen: list[tuple[str, Any]] = []

        @self.app.on(self.ticks)
        async def bill(event: Event, delivery: Delivery) -> None:
            self.seen.append((event.id, event.get("replaynumber")))
            if self.strict:
                raise Reject("not yet")


async def letters_of(worker: Any, state: str, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            await asyncio.sleep(0.05)
            found = [one.letter async for one in worker.dead_letters.scan("shop") if one.letter.state == state]
    return found


async def test_a_replay_comes_back_to_its_handler(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    shop = Shop(url)
    command = Command(tmp_path, HEADRACE_APP="shop", HEADRACE_STORE=url)
    async with shop.app.running() as worker:
        for number in range(3):
            shop.ticks.channel.append(Event("tick", "/clock", {}, id=str(number)))
        await letters_of(worker, "dead", 3)
        shop.strict = False
        process = command.start("dlq", "replay", "--yes")
        out, err = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0, err
        assert out.count("replayed ") == 3
        found = await letters_of(worker, "replayed", 3)
        assert [one.action for one in found[0].audit] == ["replaying", "taken", "replayed"]
    assert sorted(shop.seen[3:]) == [("0", 1), ("1", 1), ("2", 1)]


async def test_a_replay_that_a_crash_left_under_way_is_taken_by_the_next_worker(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    shop = Shop(url)
    async with shop.app.running() as worker:
        shop.ticks.channel.append(Event("tick", "/clock", {}, id="0"))
        await letters_of(worker, "dead", 1)
    async with shop.app.running() as worker:
        letters = worker.dead_letters
        assert letters is not None
        (stored,) = [one async for one in letters.scan("shop")]
        left = replays.audited(stored.letter, replays.TAKEN, by="worker x", state="replaying")
        shop.strict = False
        assert await letters.update(left, stored.revision)
        await letters_of(worker, "replayed", 1)
    assert shop.seen[-1] == ("0", 1)


def test_without_a_worker_the_letter_stays_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "TAKEN_WITHIN", 0.2)
    url = f"sqlite:///{tmp_path}/shop.db"
    shop = Shop(url)

    async def one_dies() -> None:
        async with shop.app.running() as worker:
            shop.ticks.channel.append(Event("tick", "/clock", {}, id="0"))
            await letters_of(worker, "dead", 1)

    asyncio.run(one_dies())
    command = Command(tmp_path, HEADRACE_APP="shop", HEADRACE_STORE=url)
    done = command("dlq", "replay", "--yes")
    assert done.code == 3
    assert "no worker took it" in done.err
    (row,) = command("dlq", "ls", "--json").objects
    assert row["state"] == "dead"
