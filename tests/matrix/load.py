"""Who sends: a publisher, a user of a Kubernetes cluster, senders over HTTP. Each writes down what was accepted.

Every customer's orders are sent in turn, so that the history's order of acceptance is the order of their key.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp

from headrace import App
from headrace.testing.history import History
from tests.kubernetes.actor import Actor
from tests.spine.process import Run

__all__ = ["Order", "apply", "orders", "post", "publish"]

#: Orders that are sent together, and seconds between.
TOGETHER, PAUSE = 12, 0.06
CUSTOMERS = 12


@dataclass(frozen=True, slots=True)
class Order:
    id: str
    customer: str
    kind: str

    @property
    def data(self) -> dict[str, str]:
        return {"customer": self.customer, "kind": self.kind}

    @property
    def dies(self) -> bool:
        """Whether it ends as a dead letter."""
        return self.kind in ("poison", "rejected")


def orders(count: int, *, trouble: bool) -> list[Order]:
    """Customers in turn; with ``trouble`` one of six fails once, and one of twelve for good."""
    kinds = ["", "failing", "", "", "poison", "", "", "failing", "", "", "", "rejected", ""]
    return [
        Order(f"o{number}", f"c{number % CUSTOMERS}", kinds[number % len(kinds)] if trouble else "")
        for number in range(count)
    ]


async def publish(url: str, channel: str, sent: list[Order], history: History) -> None:
    """To a channel."""
    app = App("publisher", broker=url)
    try:
        for start in range(0, len(sent), TOGETHER):
            batch = sent[start : start + TOGETHER]
            await asyncio.gather(
                *(
                    app.publish(channel, order.data, id=order.id, source="/matrix", key=order.customer)
                    for order in batch
                )
            )
            for order in batch:
                history.published(order.id, order.customer)
            await asyncio.sleep(PAUSE)
    finally:
        await app.close()


async def post(run: Run, sent: list[Order], history: History) -> None:
    """To a receiver; each customer waits for one answer before the next order, and sends again what was not accepted."""
    url = f"http://{run.address('http')}/orders"
    by_customer: dict[str, list[Order]] = {}
    for order in sent:
        by_customer.setdefault(order.customer, []).append(order)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:

        async def accepted(order: Order) -> bool:
            headers = {"ce-specversion": "1.0", "ce-type": "order", "ce-source": "/matrix", "ce-id": order.id}
            try:
                async with session.post(url, json=order.data, headers=headers) as answer:
                    return answer.status < 300
            except (aiohttp.ClientError, TimeoutError):
                return False

        async def customer(mine: list[Order]) -> None:
            for order in mine:
                while not await accepted(order):
                    await asyncio.sleep(PAUSE)
                history.published(order.id, order.customer)
                await asyncio.sleep(PAUSE)

        await asyncio.gather(*map(customer, by_customer.values()))


async def apply(actor: Actor, sent: list[Order], history: History) -> dict[str, Order]:
    """As objects: each customer is one, created with its first order and changed with each that follows. Only the last
    state is owed to a watcher; returns the states by what the history calls them."""
    by_customer: dict[str, list[Order]] = {}
    for order in sent:
        by_customer.setdefault(order.customer, []).append(order)
    states: dict[str, Order] = {}

    def note(answer: dict[str, Any], order: Order) -> str:
        found = answer["metadata"]
        id = f"{found['uid']}:{found['resourceVersion']}"
        states[id] = order
        return id

    async def customer(name: str, mine: list[Order]) -> None:
        body = {"metadata": {"name": name, "labels": {"matrix": "yes"}}, "data": mine[0].data}
        last = note(await actor.create("configmaps", body), mine[0])
        for order in mine[1:]:
            await asyncio.sleep(PAUSE)
            change = {"data": {**order.data, "number": order.id}}
            last = note(await actor.patch("configmaps", name, change), order)
        history.published(last, name)

    await asyncio.gather(*(customer(name, mine) for name, mine in by_customer.items()))
    return states
