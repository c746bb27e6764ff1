"""Two owners: the first one is stopped until its lease is over and another has taken its work, then goes on."""

import asyncio
import signal
import uuid
from collections import Counter, defaultdict

import psycopg
import pytest

from headrace import App, Event
from tests.stores.test_crashes import started
from tests.stores.test_postgres import a_database

CUSTOMERS, EACH, STOPS = 10, 120, 2


@pytest.mark.timeout(300)
async def test_a_stopped_owner_that_goes_on_does_nothing_twice(nats_server, postgres_server):
    store = a_database(postgres_server)
    looking = psycopg.connect(store, autocommit=True)
    looking.execute("CREATE TABLE payments (customer text, number integer)")
    stream = f"t{uuid.uuid4().hex[:10]}"
    paid: dict[str, list[int]] = defaultdict(list)
    reader = App("reader", broker=nats_server.url, store="memory://", admin="127.0.0.1:0")

    @reader.on(f"{stream}.paid", key="customer")
    async def seen(event: Event) -> None:
        paid[event.data["customer"]].append(event.data["number"])

    def done() -> int:
        ((count,),) = looking.execute("SELECT count(*) FROM payments").fetchall()
        return count

    async def until(count: int) -> None:
        async with asyncio.timeout(120):
            while done() < count:
                await asyncio.sleep(0.02)

    owners = [started(nats_server.url, store, stream, WORK="0.05") for _ in range(2)]
    try:
        async with reader.running():
            for number in range(EACH):
                for customer in range(CUSTOMERS):
                    await reader.publish(f"{stream}.created", {"customer": f"c{customer}", "number": number})
            everything = CUSTOMERS * EACH
            for stop in range(STOPS):
                # Whoever is the owner is stopped in the middle of its transactions: the other one has to go on.
                await until(done() + everything // 10)
                for owner in owners:
                    owner.send_signal(signal.SIGSTOP)
                    # What it had asked the database to commit by then is still committed.
                    await asyncio.sleep(0.3)
                    before = done()
                    await asyncio.sleep(1.0)
                    stands = done() == before
                    if stands:
                        await until(before + everything // 10)
                    owner.send_signal(signal.SIGCONT)
                    if stands:
                        break
                assert stands or stop, "neither was the owner"
            await until(everything)
            async with asyncio.timeout(120):
                while sum(map(len, paid.values())) < everything:
                    await asyncio.sleep(0.05)
    finally:
        for owner in owners:
            owner.send_signal(signal.SIGCONT)
            owner.stdin.close()
        for owner in owners:
            await asyncio.to_thread(owner.wait, 60)
    rows = Counter(looking.execute("SELECT customer, number FROM payments").fetchall())
    assert rows == Counter((f"c{customer}", number) for customer in range(CUSTOMERS) for number in range(EACH))
    assert dict(paid) == {f"c{customer}": list(range(EACH)) for customer in range(CUSTOMERS)}
    looking.close()
