"""Transactional handlers on SQLite and PostgreSQL: writes, mark and outbox are one commit, or nothing."""

import asyncio
import contextlib
import random

import psycopg
import pytest

from headrace import App, Delivery, Event, Reject, Retry
from headrace.errors import ConfigurationError, PublishFailed, StoreUnavailable
from headrace.policy import exponential
from headrace.stores import Transaction
from tests.stores.test_postgres import a_database

QUICK = Retry(attempts=3, backoff=exponential(initial=0.01))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    return a_database(request.getfixturevalue("postgres_server"))


class Shop:
    """An app on the memory broker whose store is real, and what was published on ``paid``."""

    def __init__(self, url: str, **settings) -> None:
        self.url = url
        self.mark = "?" if url.startswith("sqlite") else "%s"
        self.app = App("shop", broker="memory://", store=url, **settings)
        self.insert = f"INSERT INTO payments VALUES ({self.mark})"

    @contextlib.asynccontextmanager
    async def running(self):
        async with self.app.running() as worker:
            self.worker = worker
            unit = await worker.store.transactions.begin(Transaction)
            await unit.parameter.execute("CREATE TABLE IF NOT EXISTS payments (id text)")
            assert await unit.commit("setup", None, [])
            yield self

    async def rows(self, sql: str = "SELECT id FROM payments ORDER BY id") -> list:
        unit = await self.worker.store.transactions.begin(Transaction)
        try:
            return [row[0] for row in await unit.parameter.execute(sql)]
        finally:
            await unit.rollback()

    def published(self, channel: str) -> list[Event]:
        return self.worker.broker.at(channel).events

    async def until(self, holds, within: float = 30.0) -> None:
        async with asyncio.timeout(within):
            while not (await holds() if asyncio.iscoroutinefunction(holds) else holds()):
                await asyncio.sleep(0.01)

    async def finished(self, handler: str, count: int) -> None:
        """Wait until so many deliveries of a handler have ended."""
        (runner,) = [one for one in self.worker.runtime.handlers if one.handler.name == handler]
        outcomes = runner.measures.outcomes
        await self.until(lambda: sum(outcomes[end] for end in ("ok", "dead", "dropped")) >= count)


async def test_writes_and_outputs_and_mark_commit_together(url):
    shop = Shop(url)

    @shop.app.on("order.created", publishes="order.paid")
    async def pay(order: dict, tx: Transaction) -> dict:
        await tx.execute(shop.insert, (order["id"],))
        await shop.app.publish("order.noted", {"noted": order["id"]})
        return {"paid": order["id"]}

    async with shop.running():
        for number in range(20):
            await shop.app.publish("order.created", {"id": f"o{number:02}"}, id=f"e{number}")
        await shop.finished("pay", 20)
        await shop.until(lambda: len(shop.published("order.paid")) == 20 and len(shop.published("order.noted")) == 20)
        assert await shop.rows() == [f"o{number:02}" for number in range(20)]
        # The same events again: all of them are known.
        for number in range(20):
            await shop.app.publish("order.created", {"id": f"o{number:02}"}, id=f"e{number}", source="/shop")
        runner = shop.worker.runtime.handlers[0]
        await shop.until(lambda: runner.measures.outcomes["duplicate"] == 20)
        assert len(await shop.rows()) == 20


async def test_a_failed_attempt_leaves_nothing_and_the_next_one_all(url):
    shop = Shop(url)
    attempts = 0

    @shop.app.on("order.created", publishes="order.paid", retry=QUICK)
    async def pay(order: dict, tx: Transaction) -> dict:
        nonlocal attempts
        attempts += 1
        await tx.execute(shop.insert, (f"{order['id']} attempt {attempts}",))
        await shop.app.publish("order.noted", {"attempt": attempts})
        if attempts < 3:
            raise ValueError("not yet")
        return {"attempt": attempts}

    async with shop.running():
        await shop.app.publish("order.created", {"id": "o1"})
        await shop.finished("pay", 1)
        await shop.until(lambda: shop.published("order.paid") and shop.published("order.noted"))
        assert await shop.rows() == ["o1 attempt 3"]
        assert [event.data for event in shop.published("order.paid")] == [{"attempt": 3}]
        assert [event.data for event in shop.published("order.noted")] == [{"attempt": 3}]


async def test_a_rejected_event_writes_nothing(url):
    shop = Shop(url)

    @shop.app.on("order.created", publishes="order.paid")
    async def pay(order: dict, tx: Transaction) -> dict:
        await tx.execute(shop.insert, (order["id"],))
        raise Reject("negative amount")

    async with shop.running():
        await shop.app.publish("order.created", {"id": "o1"})
        await shop.finished("pay", 1)
        assert await shop.rows() == []
        assert shop.worker.runtime.handlers[0].measures.outcomes["dead"] == 1
        assert await shop.worker.store.outbox.pending(10) == []


async def test_rows_and_both_kinds_of_placeholders(url):
    shop = Shop(url)
    seen: list = []
    named = ":id" if url.startswith("sqlite") else "%(id)s"

    @shop.app.on("order.created")
    async def pay(order: dict, tx: Transaction) -> None:
        assert await tx.execute(shop.insert, (order["id"],)) == []
        await tx.execute(f"INSERT INTO payments VALUES ({named})", {"id": "named"})
        seen.extend(await tx.execute("SELECT id FROM payments ORDER BY id"))

    async with shop.running():
        await shop.app.publish("order.created", {"id": "a"})
        await shop.finished("pay", 1)
    assert seen == [("a",), ("named",)]


async def test_a_handler_that_commits_by_itself_is_told_not_to(url):
    shop = Shop(url)

    @shop.app.on("order.created", retry=Retry(attempts=1))
    async def pay(order: dict, tx: Transaction) -> None:
        await tx.execute(shop.insert, (order["id"],))
        await tx.execute("COMMIT")

    async with shop.running():
        await shop.app.publish("order.created", {"id": "a"})
        await shop.finished("pay", 1)
        (letter,) = [stored.letter async for stored in shop.worker.dead_letters.scan("shop")]
        assert "leave out COMMIT" in letter.reason


async def test_a_completion_whose_claim_was_lost_is_refused_with_its_writes_and_asked_for_again(url):
    shop = Shop(url)
    table = "headrace_owner" if url.startswith("sqlite") else "headrace_ledger"
    attempts = []

    @shop.app.on("order.created", key="id", retry=Retry(attempts=1), publishes="order.paid")
    async def pay(order: dict, tx: Transaction) -> dict:
        attempts.append(order["number"])
        await tx.execute(shop.insert, (f"{order['id']}{order['number']}",))
        if len(attempts) == 1:
            # As if another owner had taken it meanwhile.
            await tx.execute(f"UPDATE {table} SET token = token + 1")
        return order

    async with shop.running():
        for number in (1, 2):
            await shop.app.publish("order.created", {"id": "a", "number": number})
        measures = shop.worker.runtime.handlers[0].measures
        await shop.finished("pay", 2)
        await shop.until(lambda: len(shop.published("order.paid")) >= 2)
        assert await shop.rows() == ["a1", "a2"]
        assert [event.data["number"] for event in shop.published("order.paid")] == [1, 2]
    # The one behind it waited, and being refused was no attempt.
    assert attempts == [1, 1, 2]
    assert (measures.fenced, measures.outcomes["dead"]) == (1, 0)


async def test_a_commit_whose_answer_was_lost_is_not_done_twice(postgres_server, monkeypatch):
    from headrace.stores.postgres.transactions import PostgresUnit

    shop = Shop(a_database(postgres_server))
    commit = PostgresUnit.commit
    lost: list[str] = []

    async def losing(self, handler, identity, outgoing):
        done = await commit(self, handler, identity, outgoing)
        if handler == "pay" and not lost:
            lost.append("answer")
            raise StoreUnavailable("the answer was lost")
        return done

    monkeypatch.setattr(PostgresUnit, "commit", losing)
    attempts: list[int] = []

    @shop.app.on("order.created", publishes="order.paid", retry=Retry(attempts=1))
    async def pay(order: dict, tx: Transaction, delivery: Delivery) -> dict:
        attempts.append(delivery.attempt)
        await tx.execute(shop.insert, (order["id"],))
        return order

    async with shop.running():
        await shop.app.publish("order.created", {"id": "a"})
        await shop.finished("pay", 1)
        await shop.until(lambda: shop.published("order.paid"))
        assert await shop.rows() == ["a"]
        assert attempts == [1, 1]
        assert shop.worker.runtime.handlers[0].measures.outcomes["dead"] == 0
        assert len(shop.published("order.paid")) == 1


async def test_a_deadline_does_not_cut_a_commit(url, monkeypatch):
    shop = Shop(url)

    @shop.app.on("order.created", timeout=0.2, retry=Retry(attempts=1))
    async def pay(order: dict, tx: Transaction) -> None:
        await tx.execute(shop.insert, (order["id"],))

    async with shop.running():
        unit = type(await _one_unit(shop))
        commit = unit.commit
        (runner,) = shop.worker.runtime.handlers
        # The commit takes the cancellation back at once, so that the delivery does not show that there was one.
        expire, expired = runner.deadlines._expired, asyncio.Event()

        def noted(delivery):
            expire(delivery)
            expired.set()

        async def slow(self, *arguments):
            await expired.wait()
            return await commit(self, *arguments)

        monkeypatch.setattr(runner.deadlines, "_expired", noted)
        monkeypatch.setattr(unit, "commit", slow)
        await shop.app.publish("order.created", {"id": "a"})
        await shop.finished("pay", 1)
        assert await shop.rows() == ["a"]
        assert runner.measures.outcomes["ok"] == 1
        assert runner.measures.outcomes["timeout"] == 0
        assert expired.is_set()


async def _one_unit(shop):
    unit = await shop.worker.store.transactions.begin(Transaction)
    await unit.rollback()
    return unit


async def test_the_drivers_own_connection_commits_with_the_mark(postgres_server):
    shop = Shop(a_database(postgres_server))
    problems: list[str] = []

    @shop.app.on("order.created", publishes="order.paid")
    async def pay(order: dict, connection: psycopg.AsyncConnection) -> dict:
        await connection.execute("INSERT INTO payments VALUES (%s)", (order["id"],))
        try:
            await connection.commit()
        except psycopg.ProgrammingError as error:
            problems.append(str(error))
        return order

    async with shop.running():
        await shop.app.publish("order.created", {"id": "a"})
        await shop.finished("pay", 1)
        await shop.until(lambda: shop.published("order.paid"))
        assert await shop.rows() == ["a"]
    assert len(problems) == 1


async def test_a_transaction_that_the_store_cannot_give_is_refused_at_the_start(tmp_path):
    for store, expected in (("memory://", "sqlite:///"), (f"sqlite:///{tmp_path}/s.db", "headrace.stores.Transaction")):
        app = App("shop", broker="memory://", store=store)

        @app.on("order.created")
        async def pay(order: dict, connection: psycopg.AsyncConnection) -> None: ...

        with pytest.raises(ConfigurationError, match=f"'pay'.*{expected}"):
            async with app.running():
                raise AssertionError("it must not start")


async def test_a_transactional_handler_without_the_ledger_is_refused_at_the_start(tmp_path):
    app = App("shop", broker="memory://", store=f"sqlite:///{tmp_path}/s.db")

    @app.on("order.created", idempotent=False)
    async def pay(order: dict, tx: Transaction) -> None: ...

    with pytest.raises(ConfigurationError, match=r"'pay'.*idempotent=False"):
        async with app.running():
            raise AssertionError("it must not start")


def test_a_plain_function_cannot_take_a_transaction():
    app = App("shop", broker="memory://", store="sqlite:///s.db")

    @app.on("order.created")
    def pay(order: dict, tx: Transaction) -> None: ...

    with pytest.raises(ConfigurationError, match=r"'pay'.*'tx'.*async def"):
        app.compile()


async def test_the_outbox_keeps_the_order_of_a_key_through_refusals_and_outages(url):
    shop = Shop(url)
    dice = random.Random(8)

    @shop.app.on("order.created", key="customer", publishes="order.paid", publish_key="customer", concurrency=8)
    async def pay(order: dict, tx: Transaction) -> list:
        return [{"customer": order["customer"], "number": 2 * order["number"] + half} for half in (0, 1)]

    def publishing(channel: str, event: Event):
        if channel == "order.paid" and dice.random() < 0.2:
            return PublishFailed("the broker is away", transient=True)
        return None

    async with shop.running():
        shop.worker.broker.on_publish = publishing
        for number in range(20):
            for customer in "abcdef":
                await shop.app.publish("order.created", {"customer": customer, "number": number})
        await shop.until(lambda: len(shop.published("order.paid")) == 240)
        for customer in "abcdef":
            numbers = [e.data["number"] for e in shop.published("order.paid") if e.data["customer"] == customer]
            assert numbers == list(range(40))


async def test_outputs_without_a_key_keep_the_order_of_their_lane(url):
    shop = Shop(url)
    refused: set[str] = set()

    @shop.app.on("order.created", key="customer", publishes="order.paid")
    async def pay(order: dict, tx: Transaction) -> dict:
        return order

    def publishing(channel: str, event: Event):
        # Each one is refused at its first publication.
        if channel == "order.paid" and event.id not in refused:
            refused.add(event.id)
            return PublishFailed("the broker is away", transient=True)
        return None

    async with shop.running():
        shop.worker.broker.on_publish = publishing
        for number in range(10):
            await shop.app.publish("order.created", {"customer": "a", "number": number})
        await shop.until(lambda: len(shop.published("order.paid")) == 10)
        assert [event.data["number"] for event in shop.published("order.paid")] == list(range(10))


async def test_what_a_sink_will_never_take_stays_in_the_outbox_and_the_rest_goes_on(url, caplog):
    shop = Shop(url)

    @shop.app.on("order.created", key="customer", publishes="order.paid")
    async def pay(order: dict, tx: Transaction) -> dict:
        return order

    def publishing(channel: str, event: Event):
        if channel == "order.paid" and event.data["number"] == 1:
            return PublishFailed("too large for the broker", transient=False)
        return None

    async with shop.running():
        shop.worker.broker.on_publish = publishing
        for number in range(3):
            await shop.app.publish("order.created", {"customer": "a", "number": number})
        await shop.until(lambda: len(shop.published("order.paid")) == 2)
        left = await shop.rows("SELECT refused FROM headrace_outbox WHERE refused IS NOT NULL")
        assert left == ["too large for the broker"]
    assert "too large for the broker" in caplog.text


async def test_what_lies_in_the_outbox_at_the_end_is_published_by_the_successor(url):
    first = Shop(url)

    @first.app.on("order.created", publishes="order.paid")
    async def pay(order: dict, tx: Transaction) -> dict:
        return order

    async with first.running():
        first.worker.broker.on_publish = lambda channel, event: (
            PublishFailed("the broker is away", transient=True) if channel == "order.paid" else None
        )
        for number in range(5):
            await first.app.publish("order.created", {"number": number})
        await first.finished("pay", 5)
    assert first.published("order.paid") == []
    second = Shop(url)
    second.app.on("order.created", publishes="order.paid")(pay)
    async with second.running():
        await second.until(lambda: len(second.published("order.paid")) == 5)
        assert sorted(event.data["number"] for event in second.published("order.paid")) == list(range(5))


async def test_a_commit_of_another_process_wakes_the_relay_by_notify(postgres_server, monkeypatch):
    monkeypatch.setattr("headrace.engine.relay.IDLE", 3600.0)
    url = a_database(postgres_server)
    relay, other = Shop(url), Shop(url)
    for shop in (relay, other):

        @shop.app.on("order.created", publishes="order.paid")
        async def pay(order: dict, tx: Transaction) -> dict:
            return order

    async with relay.running():
        await relay.until(lambda: relay.worker.store.outbox._listener is not None)
        async with other.running():
            await other.app.publish("order.created", {"number": 1})
            # Published over there: each of the two has a broker of its own in this test.
            await relay.until(lambda: len(relay.published("order.paid")) == 1)
            assert other.published("order.paid") == []


async def test_the_relay_of_an_owner_that_is_gone_is_taken_over(postgres_server):
    url = a_database(postgres_server)
    dead, heir = Shop(url), Shop(url)
    for shop in (dead, heir):

        @shop.app.on("order.created", publishes="order.paid")
        async def pay(order: dict, tx: Transaction) -> dict:
            return order

    async with dead.running(), heir.running():
        await dead.until(lambda: dead.worker.store.outbox._mine)
        assert not heir.worker.store.outbox._mine
        # It stands still: its relay does nothing, and its lease runs out.
        dead.worker.relay._task.cancel()
        dead.worker.store.ledger._renewal.cancel()
        unit = await heir.worker.store.transactions.begin(Transaction)
        await unit.parameter.execute(
            "UPDATE headrace_owners SET expires = now() WHERE token = %s", (dead.worker.store.ledger.token,)
        )
        assert await unit.commit("setup", None, [])
        await heir.app.publish("order.created", {"number": 1})
        await heir.until(lambda: len(heir.published("order.paid")) == 1)
