"""The relay of the outbox: what waits for one destination keeps nothing else."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from headrace import Event
from headrace.engine import relay as module
from headrace.engine.relay import Relay
from headrace.engine.sink import Publication, Published
from headrace.engine.transactions import Outgoing
from headrace.errors import PublishFailed, StoreUnavailable


class Table:
    """An outbox in memory."""

    def __init__(self) -> None:
        self.rows: dict[int, bytes] = {}
        self._last = 0
        self.away = False
        self._news = asyncio.Event()

    def write(self, destination: str, id: str, lane: str | None = None) -> None:
        self._last += 1
        event = Event("order.created", "/shop", {}, id=id).to_json()
        self.rows[self._last] = msgspec.msgpack.encode(Outgoing(destination, lane, "", 0, event))
        self.committed()

    async def acquire(self) -> bool:
        return True

    async def pending(self, limit: int) -> Sequence[tuple[int, bytes]]:
        self._news.clear()
        if self.away:
            raise StoreUnavailable("the store is away")
        return list(self.rows.items())[:limit]

    async def remove(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            del self.rows[number]

    async def refuse(self, number: int, reason: str) -> None:
        raise AssertionError("nothing is refused for good here")

    def committed(self) -> None:
        self._news.set()

    async def wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass

    async def close(self) -> None: ...


async def eventually(done: Any) -> None:
    async with asyncio.timeout(20):
        while not done():
            await asyncio.sleep(0.01)


async def test_what_waits_for_a_destination_that_is_away_keeps_no_other_row(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "PAGE", 8)
    table, sent, down = Table(), [], True

    async def publish(destination: Any, publications: Sequence[Publication]) -> Sequence[Published | Exception]:
        if destination == "away" and down:
            return [PublishFailed("away", transient=True)] * len(publications)
        sent.extend(publication.event.id for publication in publications)
        return [Published()] * len(publications)

    async def resolve(name: str) -> str:
        return name

    relay = Relay(table, publish, resolve)
    for number in range(20):
        table.write("away", f"a{number}", lane=f"k{number % 3}")
    relay.start(lambda error: None)
    for number in range(5):
        table.write("here", f"h{number}")
    await eventually(lambda: len(sent) == 5)
    await eventually(lambda: len(table.rows) == 20)
    assert "away" in relay.trouble
    down = False
    await eventually(lambda: not table.rows)
    await relay.stop(1.0)
    assert not relay.trouble
    for key in range(3):
        mine = [f"a{number}" for number in range(20) if number % 3 == key]
        assert [id for id in sent if id in mine] == mine


async def test_a_store_that_answers_again_is_no_trouble_where_nothing_is_to_be_sent() -> None:
    table = Table()

    async def nothing(*_: Any) -> Any:
        raise AssertionError("nothing is to be sent")

    relay = Relay(table, nothing, nothing)
    table.away = True
    relay.start(lambda error: None)
    await eventually(lambda: relay.trouble)
    table.away = False
    await eventually(lambda: not relay.trouble)
    await relay.stop(1.0)
