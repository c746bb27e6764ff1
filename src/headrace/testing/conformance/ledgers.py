"""What every ledger keeps: see `headrace.engine.ledger`."""

from __future__ import annotations

import asyncio
import random
import string
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from headrace.engine.ledger import CLAIMED, AttemptError, Attempts, Claim, Identity, Ledger
from headrace.errors import StoreUnavailable
from headrace.testing.conformance.places import StoreSuite

__all__ = [
    "DurableLedgerConformance",
    "LedgerConformance",
    "OutageConformance",
    "SharedLedgerConformance",
]

FAILED: Final = Attempts(
    2, 1000.0, (AttemptError(1000.0, "ValueError", "once"), AttemptError(1001.0, "OSError", "twice"))
)


def some(count: int, prefix: str = "event") -> list[Identity]:
    """So many identities of one source."""
    return [("/conformance", f"{prefix}-{number}") for number in range(count)]


def states(claims: Sequence[Claim]) -> list[str]:
    """The states of some claims."""
    return [claim.state for claim in claims]


async def freed(ledger: Ledger, identities: Sequence[Identity], *, within: float) -> list[Claim]:
    """Claim as the engine does: what is busy is asked for again."""
    got: dict[Identity, Claim] = {}
    async with asyncio.timeout(within):
        while len(got) < len(identities):
            missing = [identity for identity in identities if identity not in got]
            claims = zip(missing, await ledger.claim("bill", missing), strict=True)
            got.update({identity: claim for identity, claim in claims if claim.state != "busy"})
            await asyncio.sleep(0.05)
    return [got[identity] for identity in identities]


class LedgerConformance(StoreSuite):
    """For every ledger. Provide ``url`` (see `StoreSuite`)."""

    async def test_a_fresh_event_is_claimed(self) -> None:
        async with self.opened() as store:
            assert list(await store.ledger.claim("bill", some(3))) == [CLAIMED] * 3

    async def test_a_claimed_event_is_ours_until_it_is_finished(self) -> None:
        async with self.opened() as store:
            await store.ledger.claim("bill", some(1))
            assert states(await store.ledger.claim("bill", some(2))) == ["ours", "claimed"]

    async def test_the_same_event_twice_in_a_batch_is_claimed_once(self) -> None:
        async with self.opened() as store:
            assert states(await store.ledger.claim("bill", [*some(1), *some(1)])) == ["claimed", "ours"]

    async def test_a_finished_event_says_how_it_ended(self) -> None:
        async with self.opened() as store:
            ledger = store.ledger
            for state in ("done", "dead", "dropped"):
                events = some(2, state)
                await ledger.claim("bill", events)
                assert list(await ledger.mark("bill", events, state)) == [True, True]
                assert states(await ledger.claim("bill", [*events, *events])) == [state] * 4

    async def test_what_was_never_claimed_cannot_be_finished(self) -> None:
        async with self.opened() as store:
            ours, stranger = some(2)
            await store.ledger.claim("bill", [ours])
            assert list(await store.ledger.mark("bill", [ours, stranger], "done")) == [True, False]
            assert states(await store.ledger.claim("bill", [stranger])) == ["claimed"]

    async def test_a_released_event_can_be_claimed_again(self) -> None:
        async with self.opened() as store:
            first, second = some(2)
            await store.ledger.claim("bill", [first, second])
            await store.ledger.release("bill", [first])
            assert states(await store.ledger.claim("bill", [first, second])) == ["claimed", "ours"]

    async def test_releasing_what_is_finished_changes_nothing(self) -> None:
        async with self.opened() as store:
            await store.ledger.claim("bill", some(1))
            await store.ledger.mark("bill", some(1), "done")
            await store.ledger.release("bill", some(1))
            assert states(await store.ledger.claim("bill", some(1))) == ["done"]

    async def test_a_released_event_cannot_be_finished(self) -> None:
        async with self.opened() as store:
            await store.ledger.claim("bill", some(1))
            await store.ledger.release("bill", some(1))
            assert list(await store.ledger.mark("bill", some(1), "done")) == [False]

    async def test_failed_attempts_come_back_with_the_next_claim(self) -> None:
        async with self.opened() as store:
            failed, fresh = some(2)
            await store.ledger.claim("bill", [failed, fresh])
            await store.ledger.record("bill", [(failed, FAILED)])
            assert states(await store.ledger.claim("bill", [failed])) == ["ours"]
            await store.ledger.release("bill", [failed, fresh])
            assert list(await store.ledger.claim("bill", [fresh, failed])) == [CLAIMED, Claim("claimed", FAILED)]

    async def test_recording_again_replaces_what_was_recorded(self) -> None:
        async with self.opened() as store:
            await store.ledger.claim("bill", some(1))
            await store.ledger.record("bill", [(some(1)[0], Attempts(1, 1000.0, FAILED.errors[:1]))])
            await store.ledger.record("bill", [(some(1)[0], FAILED)])
            await store.ledger.release("bill", some(1))
            assert list(await store.ledger.claim("bill", some(1))) == [Claim("claimed", FAILED)]

    async def test_a_finished_event_has_no_attempts_left(self) -> None:
        async with self.opened() as store:
            await store.ledger.claim("bill", some(1))
            await store.ledger.record("bill", [(some(1)[0], FAILED)])
            await store.ledger.mark("bill", some(1), "dead")
            assert list(await store.ledger.claim("bill", some(1))) == [Claim("dead")]

    async def test_a_forgotten_event_is_as_if_never_seen(self) -> None:
        async with self.opened() as store:
            done, failed, kept = some(3)
            await store.ledger.claim("bill", [done, failed, kept])
            await store.ledger.record("bill", [(failed, FAILED)])
            await store.ledger.mark("bill", [done, kept], "done")
            await store.ledger.release("bill", [failed])
            await store.ledger.forget("bill", [done, failed])
            assert list(await store.ledger.claim("bill", [done, failed, kept])) == [CLAIMED, CLAIMED, Claim("done")]

    async def test_handlers_do_not_see_each_other(self) -> None:
        async with self.opened() as store:
            await store.ledger.claim("bill", some(2))
            await store.ledger.mark("bill", some(1), "done")
            assert states(await store.ledger.claim("ship", some(2))) == ["claimed", "claimed"]

    async def test_sources_and_ids_are_not_run_together(self) -> None:
        async with self.opened() as store:
            alike = [("/a", "b/c"), ("/a/b", "c"), ("/a ", "b"), ("/a", " b"), ("", "x"), ("x", "")]
            assert states(await store.ledger.claim("bill", alike)) == ["claimed"] * len(alike)

    async def test_any_text_is_an_id(self) -> None:
        async with self.opened() as store:
            odd = [
                ("/s", text)
                for text in (
                    "a'b\"c",
                    "a\0b",
                    "a\0c",
                    "a\1b",
                    "a\1\1b",
                    "a\1\2b",
                    "a\\u0000b",
                    "ü😀",
                    "x" * 4000,
                    "a:b|c{d}",
                )
            ]
            assert states(await store.ledger.claim("bill", odd)) == ["claimed"] * len(odd)
            await store.ledger.mark("bill", odd[1:2], "done")
            await store.ledger.mark("bill", odd[3:], "done")
            await store.ledger.release("bill", odd)
            expected = ["done"] * len(odd)
            expected[0] = expected[2] = "claimed"
            assert states(await store.ledger.claim("bill", odd)) == expected

    async def test_thousands_of_events_in_one_batch(self) -> None:
        async with self.opened() as store:
            events = some(5_000)
            random.Random(3).shuffle(events)
            assert set(await store.ledger.claim("bill", events)) == {CLAIMED}
            assert all(await store.ledger.mark("bill", events[:2_500], "done"))
            assert states(await store.ledger.claim("bill", events)) == ["done"] * 2_500 + ["ours"] * 2_500

    async def test_an_empty_batch_is_no_trouble(self) -> None:
        async with self.opened() as store:
            assert not await store.ledger.claim("bill", [])
            assert not await store.ledger.mark("bill", [], "done")
            await store.ledger.record("bill", [])
            await store.ledger.release("bill", [])
            await store.ledger.forget("bill", [])

    async def test_of_many_tasks_one_claims_an_event(self) -> None:
        async with self.opened() as store:
            events = some(50)

            async def claim(seed: int) -> list[tuple[Identity, str]]:
                shuffled = random.Random(seed).sample(events, len(events))
                return list(zip(shuffled, states(await store.ledger.claim("bill", shuffled)), strict=True))

            answers = [pair for batch in await asyncio.gather(*map(claim, range(20))) for pair in batch]
            assert Counter(identity for identity, state in answers if state == "claimed") == dict.fromkeys(events, 1)
            assert {state for _, state in answers} == {"claimed", "ours"}

    async def test_a_batch_does_what_its_events_do_one_by_one(self) -> None:
        async with self.opened() as store:
            ledger = store.ledger
            for seed in range(5):
                batched = await _played(ledger, f"batched{seed}", seed, together=True)
                single = await _played(ledger, f"single{seed}", seed, together=False)
                assert batched == single, f"seed {seed}"


async def _played(ledger: Ledger, handler: str, seed: int, *, together: bool) -> list[Any]:
    """A random game of operations on a few events; what was answered."""
    dice = random.Random(seed)
    answers: list[Any] = []
    for _ in range(40):
        events = [("/play", letter) for letter in dice.sample(string.ascii_lowercase[:8], dice.randint(1, 8))]
        operation = dice.choice(["claim", "claim", "claim", "mark", "mark", "record", "release", "forget"])
        state = dice.choice(["done", "dead", "dropped"])
        for batch in [events] if together else [[event] for event in events]:
            if operation == "claim":
                answers.extend(await ledger.claim(handler, batch))
            elif operation == "mark":
                answers.extend(await ledger.mark(handler, batch, state))
            elif operation == "record":
                # Only what is claimed has attempts to record.
                ours = [event for event, claim in zip(batch, await ledger.claim(handler, batch), strict=True)
                        if claim.state in ("claimed", "ours")]  # fmt: skip
                await ledger.record(handler, [(event, FAILED) for event in ours])
            else:
                await getattr(ledger, operation)(handler, batch)
    return answers


class DurableLedgerConformance(StoreSuite):
    """For ledgers whose marks survive their process. Provide ``url``, and a ``factory`` that another process can import."""

    #: Seconds within which the claims of a killed process are free.
    freed_within: float = 5.0

    async def test_marks_and_attempts_survive_a_restart(self) -> None:
        async with self.opened() as store:
            assert store.durable
            assert store.ledger.durable
            done, failed = some(2)
            await store.ledger.claim("bill", [done, failed])
            await store.ledger.record("bill", [(failed, FAILED)])
            await store.ledger.mark("bill", [done], "done")
        async with self.opened() as store:
            assert list(await store.ledger.claim("bill", [done, failed])) == [Claim("done"), Claim("claimed", FAILED)]

    async def test_claims_end_with_a_closed_owner(self) -> None:
        async with self.opened() as store:
            await store.ledger.claim("bill", some(3))
        async with self.opened() as store:
            assert states(await store.ledger.claim("bill", some(3))) == ["claimed"] * 3

    async def test_a_closed_owner_can_open_again(self) -> None:
        owner = self.owner()
        async with self.opened(owner=owner) as store:
            await store.ledger.claim("bill", some(1))
        async with self.opened(owner=owner) as store:
            assert states(await store.ledger.claim("bill", some(1))) == ["claimed"]
            assert list(await store.ledger.mark("bill", some(1), "done")) == [True]

    async def test_done_survives_kill_9(self) -> None:
        done, failed, claimed = some(3)
        async with self.claimant(lease=2.0) as other:
            assert await other.claim("bill", [done, failed, claimed]) == ["claimed"] * 3
            await other.call("record", "bill", [(failed, FAILED)])
            assert await other.call("mark", "bill", [done], "done") == [True]
            await other.kill()
        async with self.opened(lease=2.0) as store:
            assert states(await store.ledger.claim("bill", [done])) == ["done"]
            answers = await freed(store.ledger, [failed, claimed], within=self.freed_within)
            assert answers == [Claim("claimed", FAILED), CLAIMED]
            assert list(await store.ledger.mark("bill", [failed, claimed], "done")) == [True, True]


class SharedLedgerConformance(StoreSuite):
    """For ledgers that several processes share. Provide ``url`` and an importable ``factory``."""

    #: Seconds that the tests' leases last; the ledger takes ``lease`` and ``renew`` as attributes before it is opened.
    lease: float = 1.5

    async def test_an_event_is_claimed_by_one_of_many_owners(self) -> None:
        async with self.opened() as one, self.opened() as two, self.opened() as three:
            events = some(300)

            async def claim(ledger: Ledger, seed: int) -> list[Identity]:
                dice = random.Random(seed)
                mine: list[Identity] = []
                for _ in range(10):
                    batch = dice.sample(events, 60)
                    for identity, claim in zip(batch, await ledger.claim("bill", batch), strict=True):
                        assert claim.state in ("claimed", "ours", "busy")
                        if claim.state == "claimed":
                            mine.append(identity)
                return mine

            ledgers = (one.ledger, two.ledger, three.ledger)
            claimed = await asyncio.gather(*(claim(ledger, seed) for seed in range(4) for ledger in ledgers))
            counts = Counter(identity for mine in claimed for identity in mine)
            assert set(counts.values()) == {1}

    async def test_another_owner_finds_a_claim_busy_and_cannot_finish_it(self) -> None:
        async with self.opened() as one, self.opened() as two:
            await one.ledger.claim("bill", some(1))
            assert states(await two.ledger.claim("bill", some(1))) == ["busy"]
            assert list(await two.ledger.mark("bill", some(1), "done")) == [False]
            await two.ledger.release("bill", some(1))
            assert states(await two.ledger.claim("bill", some(1))) == ["busy"]
            assert list(await one.ledger.mark("bill", some(1), "done")) == [True]
            assert states(await two.ledger.claim("bill", some(1))) == ["done"]

    async def test_a_released_claim_passes_to_another_owner_with_its_attempts(self) -> None:
        async with self.opened() as one, self.opened() as two:
            await one.ledger.claim("bill", some(1))
            await one.ledger.record("bill", [(some(1)[0], FAILED)])
            await one.ledger.release("bill", some(1))
            assert list(await two.ledger.claim("bill", some(1))) == [Claim("claimed", FAILED)]
            assert list(await one.ledger.mark("bill", some(1), "done")) == [False]
            assert list(await two.ledger.mark("bill", some(1), "done")) == [True]

    async def test_the_lease_of_a_live_owner_is_renewed(self) -> None:
        async with self.opened(lease=self.lease) as one, self.opened(lease=self.lease) as two:
            await one.ledger.claim("bill", some(1))
            await asyncio.sleep(2 * self.lease)
            assert states(await two.ledger.claim("bill", some(1))) == ["busy"]
            assert list(await one.ledger.mark("bill", some(1), "done")) == [True]

    async def test_after_its_lease_a_stopped_owner_is_fenced(self) -> None:
        async with self.claimant(lease=self.lease) as other, self.opened(lease=self.lease) as store:
            taken, kept = some(2)
            assert await other.claim("bill", [taken, kept]) == ["claimed"] * 2
            assert states(await store.ledger.claim("bill", [taken])) == ["busy"]
            other.stop()
            await freed(store.ledger, [taken], within=10 * self.lease)
            other.ask("mark", "bill", [taken, kept], "done")
            other.go_on()
            assert await other.answer() == [False, True]
            assert list(await store.ledger.mark("bill", [taken], "done")) == [True]
            assert states(await store.ledger.claim("bill", [kept])) == ["done"]


class OutageConformance(StoreSuite):
    """For ledgers that can be away: full disks, servers that stand still. Provide ``url`` and ``outage``."""

    def outage(self) -> AbstractAsyncContextManager[None]:
        """The store does not work until the block ends; then it does, with nothing lost that it had confirmed."""
        raise NotImplementedError

    async def test_an_outage_surfaces_as_wait_and_never_as_done(self) -> None:
        async with self.opened() as store:
            ledger = store.ledger
            done, running, fresh = some(3)
            await ledger.claim("bill", [done, running])
            await ledger.mark("bill", [done], "done")
            async with self.outage():
                await _refused(ledger.mark("bill", [running], "done"))
                await _refused(ledger.record("bill", [(running, FAILED)]))
            # What the engine does: the same call again, until it is answered.
            await ledger.record("bill", [(running, FAILED)])
            assert list(await ledger.mark("bill", [running], "done")) == [True]
            assert states(await ledger.claim("bill", [done, running, fresh])) == ["done", "done", "claimed"]

    async def test_what_was_refused_in_an_outage_did_not_half_happen(self) -> None:
        async with self.opened() as store:
            ledger = store.ledger
            events = some(500)
            await ledger.claim("bill", events)
            async with self.outage():
                await _refused(ledger.mark("bill", events, "done"))
            found = Counter(await ledger.mark("bill", events, "done"))
            assert found == {True: 500}
            assert set(states(await ledger.claim("bill", events))) == {"done"}


async def _refused(call: Any) -> None:
    try:
        answer = await call
    except StoreUnavailable:
        return
    raise AssertionError(f"answered {answer!r} in an outage; StoreUnavailable was expected")
