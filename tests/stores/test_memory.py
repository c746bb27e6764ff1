"""The memory store: conformance of its ledger, and what it forgets."""

from headrace.stores import open_store
from headrace.stores.memory import MemoryCheckpoints, MemoryLedger
from headrace.testing.conformance import DeadLetterConformance, LedgerConformance


class TestMemory(LedgerConformance, DeadLetterConformance):
    url = "memory://"


def some(first: int, count: int) -> list[tuple[str, str]]:
    return [("s", str(number)) for number in range(first, first + count)]


async def test_the_oldest_marks_are_forgotten_first():
    ledger = MemoryLedger(marks=100)
    for first in range(0, 300, 10):
        await ledger.claim("bill", some(first, 10))
        await ledger.mark("bill", some(first, 10), "done")
    states = [claim.state for claim in await ledger.claim("bill", some(0, 300))]
    assert states == ["claimed"] * 200 + ["done"] * 100


async def test_live_claims_are_never_forgotten():
    ledger = MemoryLedger(marks=100)
    await ledger.claim("bill", some(0, 1_000))
    await ledger.claim("bill", some(1_000, 1_000))
    await ledger.mark("bill", some(1_000, 1_000), "done")
    assert {claim.state for claim in await ledger.claim("bill", some(0, 1_000))} == {"ours"}
    assert all(await ledger.mark("bill", some(0, 1_000), "done"))


async def test_how_an_event_ended_is_forgotten_with_its_mark():
    ledger = MemoryLedger(marks=10)
    await ledger.claim("bill", some(0, 5))
    await ledger.mark("bill", some(0, 5), "dead")
    await ledger.claim("bill", some(5, 20))
    await ledger.mark("bill", some(5, 20), "done")
    assert not ledger._of("bill").states
    assert len(ledger._of("bill").finished) == 20


async def test_nothing_of_it_is_durable():
    store = open_store("memory://", app="shop")
    assert not store.durable
    assert not store.ledger.durable
    assert store.suspects is None


async def test_checkpoints_live_as_long_as_the_store():
    checkpoints = MemoryCheckpoints()
    await checkpoints.save("shop__pods", {"a": b"1", "b": b"2"})
    await checkpoints.save("shop__pods", {"b": None})
    assert await checkpoints.load("shop__pods") == {"a": b"1"}
