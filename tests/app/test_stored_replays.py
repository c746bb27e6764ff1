"""Replays that a store keeps: what was taken is handed over, whatever becomes of the store meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from headrace.engine.dead_letters import DeadLetter, Stored
from headrace.engine.source import Credit
from headrace.engine.stored_replays import StoredReplays
from headrace.errors import StoreUnavailable
from headrace.memory.dead_letters import MemoryDeadLetters
from headrace.testing.conformance.records import APP, make_letter


class Fading(MemoryDeadLetters):
    """Does not answer its second update, once."""

    updates = 0

    async def update(self, letter: DeadLetter, revision: object) -> bool:
        self.updates += 1
        if self.updates == 2:
            raise StoreUnavailable("not now")
        return await super().update(letter, revision)  # type: ignore[arg-type]

    async def replaying(self, app: str, handler: str, limit: int) -> Sequence[Stored]:
        found = [stored async for stored in self.scan(app, handler=handler)]
        return [stored for stored in found if stored.letter.state == "replaying"][:limit]


async def test_an_outage_between_two_letters_keeps_neither_from_its_handler() -> None:
    store = Fading()
    await store.open()
    await store.put([make_letter(number, state="replaying") for number in (1, 2)])
    source = StoredReplays(store, store, app=APP, handler="bill", by="worker")
    found: list[str] = []
    async with asyncio.timeout(10):
        while len(found) < 2:
            found += [one.event.id for one in await source.fetch(Credit(10, 1 << 20)) if one.event is not None]
    assert len(set(found)) == 2
