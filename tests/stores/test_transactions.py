"""Transactional handlers on SQLite and PostgreSQL: writes, mark and outbox are one commit, or nothing."""

import asyncio
import contextlib
import uuid

import psycopg
import pytest

from headrace import App, Event, Reject, Retry
from headrace.errors import ConfigurationError
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
