"""What dead-letter stores, checkpoints and suspects keep: see `headrace.engine.dead_letters` and `.checkpoints`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from headrace.engine.dead_letters import Action, DeadLetter, DeadLetterStore, letter_id
from headrace.engine.ledger import AttemptError
from headrace.testing.conformance.places import StoreSuite

__all__ = ["CheckpointConformance", "DeadLetterConformance", "SuspectConformance", "make_letter"]

APP = "conformance"


def make_letter(number: int = 1, *, handler: str = "bill", **changes: Any) -> DeadLetter:
    """A dead letter with every field filled."""
    letter = DeadLetter(
        id=letter_id(APP, handler, "/shop", f"order-{number}", 0),
        app=APP,
        handler=handler,
        source="memory:order.created",
        event_source="/shop",
        event_id=f"order-{number}",
        event_type="order.created",
        headers=[("ce-id", b"order-1"), ("ce-odd", b"\xff\x00\xfe"), ("ce-odd", b"twice")],
        body=bytes(range(256)),
        reason="ValueError: negative amount",
        exception="ValueError",
        message="negative amount",
        traceback="Traceback …",
        attempts=8,
        first_seen=1000.25 + number,
        last_seen=2000.5 + number,
        errors=[AttemptError(1000.25, "ValueError", "negative amount")],
        origin={"stream": "order", "sequence": number, "share": 0.5},
        subject="orders/1",
        key="ann",
        channel="order.created",
    )
    return msgspec.structs.replace(letter, **changes)


class DeadLetterConformance(StoreSuite):
    """For dead-letter stores. Provide ``url``; or override ``letters`` where a broker keeps them."""

    @asynccontextmanager
    async def letters(self) -> AsyncIterator[DeadLetterStore]:
        """The open dead-letter store, over the same place at each call within one test."""
        async with self.opened() as store:
            assert store.dead_letters is not None
            await store.dead_letters.open()
            yield store.dead_letters

    async def test_a_letter_comes_back_byte_for_byte(self) -> None:
        async with self.letters() as letters:
            assert list(await letters.put([make_letter()])) == [None]
            stored = await letters.get(make_letter().id)
            assert stored is not None
            assert stored.letter == make_letter()

    async def test_a_letter_without_a_body_stays_without(self) -> None:
        async with self.letters() as letters:
            await letters.put([make_letter(body=None, headers=[])])
            stored = await letters.get(make_letter().id)
            assert stored is not None
            assert stored.letter.body is None

    async def test_an_unknown_letter_is_none(self) -> None:
        async with self.letters() as letters:
            assert await letters.get("0" * 24) is None

    async def test_storing_a_letter_twice_keeps_the_first(self) -> None:
        async with self.letters() as letters:
            await letters.put([make_letter()])
            assert list(await letters.put([make_letter(reason="another"), make_letter(2)])) == [None, None]
            stored = await letters.get(make_letter().id)
            assert stored is not None
            assert stored.letter.reason == make_letter().reason

    async def test_an_update_replaces_the_letter_whose_revision_it_names(self) -> None:
        async with self.letters() as letters:
            await letters.put([make_letter()])
            stored = await letters.get(make_letter().id)
            assert stored is not None
            changed = make_letter(
                state="replaying", audit=[Action(1.0, "replaying", "ann", "fixed")], edited=([("ce-id", b"x")], b"new")
            )
            assert await letters.update(changed, stored.revision)
            again = await letters.get(changed.id)
            assert again is not None
            assert again.letter == changed
            assert again.revision != stored.revision

    async def test_an_update_of_an_old_revision_is_refused(self) -> None:
        async with self.letters() as letters:
            await letters.put([make_letter()])
            stored = await letters.get(make_letter().id)
            assert stored is not None
            assert await letters.update(make_letter(state="replaying"), stored.revision)
            assert not await letters.update(make_letter(state="dropped"), stored.revision)
            again = await letters.get(make_letter().id)
            assert again is not None
            assert again.letter.state == "replaying"

    async def test_of_many_updates_at_once_one_wins(self) -> None:
        async with self.letters() as letters:
            await letters.put([make_letter()])
            stored = await letters.get(make_letter().id)
            assert stored is not None
            updates = [letters.update(make_letter(reason=str(number)), stored.revision) for number in range(10)]
            assert sorted(await asyncio.gather(*updates)) == [False] * 9 + [True]

    async def test_a_scan_finds_every_letter_oldest_first(self) -> None:
        async with self.letters() as letters:
            await letters.put([make_letter(number) for number in reversed(range(700))])
            found = [stored.letter.event_id async for stored in letters.scan(APP)]
            assert sorted(found) == sorted(f"order-{number}" for number in range(700))

    async def test_a_scan_of_a_handler_finds_only_its_letters(self) -> None:
        async with self.letters() as letters:
            await letters.put([make_letter(1), make_letter(2, handler="ship"), make_letter(3)])
            await letters.put([make_letter(4, app="another", id=letter_id("another", "bill", "/shop", "order-4", 0))])
            found = [stored.letter.event_id async for stored in letters.scan(APP, handler="bill")]
            assert found == ["order-1", "order-3"]
            assert len([stored async for stored in letters.scan(APP)]) == 3

    async def test_a_scan_may_update_what_it_finds(self) -> None:
        async with self.letters() as letters:
            await letters.put([make_letter(number) for number in range(450)])
            seen = 0
            async for stored in letters.scan(APP):
                seen += 1
                assert await letters.update(msgspec.structs.replace(stored.letter, state="dropped"), stored.revision)
            assert seen == 450
            assert await letters.counts(APP) == {}

    async def test_counts_are_of_what_is_dead(self) -> None:
        async with self.letters() as letters:
            await letters.put([make_letter(1), make_letter(2), make_letter(3, handler="ship"), make_letter(4)])
            stored = await letters.get(make_letter(1).id)
            assert stored is not None
            await letters.update(make_letter(1, state="replayed"), stored.revision)
            counts = await letters.counts(APP)
            assert {handler: count for handler, (count, _) in counts.items()} == {"bill": 2, "ship": 1}

    async def test_many_letters_are_stored_in_one_call(self) -> None:
        async with self.letters() as letters:
            assert list(await letters.put([make_letter(number) for number in range(300)])) == [None] * 300
            assert (await letters.counts(APP))["bill"][0] == 300


class CheckpointConformance(StoreSuite):
    """For durable checkpoints. Provide ``url``."""

    async def test_a_scope_never_saved_is_empty(self) -> None:
        async with self.opened() as store:
            assert store.checkpoints is not None
            assert await store.checkpoints.load("shop__pods") == {}

    async def test_what_was_saved_is_loaded_after_a_restart(self) -> None:
        async with self.opened() as store:
            assert store.checkpoints is not None
            await store.checkpoints.save("shop__pods", {"version": b"\x00\xff1", "bookmark": b""})
        async with self.opened() as store:
            assert store.checkpoints is not None
            assert await store.checkpoints.load("shop__pods") == {"version": b"\x00\xff1", "bookmark": b""}

    async def test_a_save_replaces_and_removes_and_leaves_the_rest(self) -> None:
        async with self.opened() as store:
            assert store.checkpoints is not None
            await store.checkpoints.save("shop__pods", {"a": b"1", "b": b"2", "c": b"3"})
            await store.checkpoints.save("shop__pods", {"a": b"4", "b": None, "never": None})
            assert await store.checkpoints.load("shop__pods") == {"a": b"4", "c": b"3"}

    async def test_scopes_do_not_see_each_other(self) -> None:
        async with self.opened() as store:
            assert store.checkpoints is not None
            await store.checkpoints.save("shop__pods", {"a": b"1"})
            await store.checkpoints.save("shop__nodes", {"a": b"2"})
            assert await store.checkpoints.load("shop__pods") == {"a": b"1"}

    async def test_thousands_of_names_are_saved_at_once(self) -> None:
        async with self.opened() as store:
            assert store.checkpoints is not None
            names: dict[str, bytes | None] = {f"pod-{number}": b"%d" % number for number in range(3_000)}
            await store.checkpoints.save("shop__pods", names)
            assert await store.checkpoints.load("shop__pods") == names


class SuspectConformance(StoreSuite):
    """For durable suspects. Provide ``url``."""

    async def test_the_first_start_has_no_suspects(self) -> None:
        async with self.opened() as store:
            assert store.suspects is not None
            assert not await store.suspects.begin(APP, "first")

    async def test_after_a_clean_end_nothing_is_suspect(self) -> None:
        async with self.opened() as store:
            assert store.suspects is not None
            await store.suspects.begin(APP, "first")
            await store.suspects.end(APP, "first")
        async with self.opened() as store:
            assert store.suspects is not None
            assert not await store.suspects.begin(APP, "second")

    async def test_an_unclean_end_is_known_once(self) -> None:
        async with self.opened() as store:
            assert store.suspects is not None
            await store.suspects.begin(APP, "first")
        async with self.opened() as store:
            assert store.suspects is not None
            assert await store.suspects.begin(APP, "second")
            await store.suspects.end(APP, "second")
        async with self.opened() as store:
            assert store.suspects is not None
            assert not await store.suspects.begin(APP, "third")

    async def test_starts_are_counted_over_restarts_until_they_finish(self) -> None:
        poison, neighbour = ("/s", "poison"), ("/s", "neighbour")
        async with self.opened() as store:
            assert store.suspects is not None
            assert list(await store.suspects.started("bill", [poison, neighbour])) == [1, 1]
            assert list(await store.suspects.recorded("bill", [neighbour, ("/s", "other")])) == [1, 0]
        async with self.opened() as store:
            assert store.suspects is not None
            await store.suspects.finished("bill", [neighbour])
            assert list(await store.suspects.started("bill", [neighbour, poison])) == [1, 2]
            assert list(await store.suspects.started("ship", [poison])) == [1]
