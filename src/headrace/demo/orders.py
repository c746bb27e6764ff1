"""The demo's app: orders come over HTTP and the broker, are billed in order per customer, and some go wrong.

`Shop.app` is an ordinary Headrace app; `Shop` beside it only remembers what happened, so that the sums can be checked.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

import msgspec

from headrace.app import App
from headrace.errors import Reject
from headrace.event import Event
from headrace.http import Receiver
from headrace.identifiers import random_id
from headrace.policy import Retry, exponential

__all__ = ["Order", "Shop"]

#: The customer whose first order fails a few times, with all others behind it.
SLOW_CUSTOMER = "customer-7"


class Order(msgspec.Struct):
    """One order. ``number`` counts the orders of its customer."""

    id: str
    customer: str
    number: int
    amount: float


class Shop:
    """The app and its books."""

    def __init__(self) -> None:
        self.app = App("demo")
        #: On a broker that is not the demo's own, earlier runs may have left events behind.
        self.run = random_id()[:8]
        self.billed: Counter[str] = Counter()
        self.per_customer: dict[str, list[int]] = defaultdict(list)
        self.invoices: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.received = 0
        self.fixed = False
        self.changed = asyncio.Event()
        retry = Retry(attempts=6, backoff=exponential(initial=0.2, factor=1.5))
        mine = [{"exact": {"source": self.source}}]
        self.app.on("order.created", key="customer", filters=mine, retry=retry, publishes="invoice.created")(self.bill)
        self.app.on("invoice.created")(self.book)
        self.app.on(Receiver("/orders"))(self.receive)

    async def receive(self, event: Event) -> None:
        """An order over HTTP goes to the broker, confirmed before the sender gets its answer."""
        self.received += 1
        await self.place(event.data)

    @property
    def source(self) -> str:
        """Where the orders of this run come from."""
        return f"/demo/{self.run}"

    async def place(self, order: dict[str, Any]) -> None:
        """Publish an order. Its key is what a broker with partitions needs to keep the order of a customer."""
        await self.app.publish("order.created", order, id=order["id"], source=self.source, key=order["customer"])

    async def bill(self, order: Order) -> dict[str, object]:
        """Bill one order; its invoice is published and confirmed before the order is acknowledged."""
        self.attempts[order.id] += 1
        if order.amount < 0 and not self.fixed:
            raise Reject(f"order {order.id} has a negative amount")
        if order.customer == SLOW_CUSTOMER and order.number == 0 and self.attempts[order.id] <= 4:
            raise ConnectionError("the bank does not answer for this customer yet")
        if order.number == 13 and self.attempts[order.id] == 1:
            raise ConnectionError("the bank hung up")
        self.billed[order.id] += 1
        self.per_customer[order.customer].append(order.number)
        self.changed.set()
        return {"order": order.id, "total": abs(order.amount)}

    async def book(self, invoice: dict[str, object]) -> None:
        """Count the invoices that came out."""
        if str(invoice["order"]).startswith(self.run):
            self.invoices[str(invoice["order"])] += 1
            self.changed.set()

    @property
    def recovered(self) -> int:
        """Orders that were billed after a failed attempt."""
        return sum(1 for order, count in self.attempts.items() if count > 1 and self.billed[order])

    def disordered(self, replayed: set[str]) -> list[str]:
        """Customers whose orders were not billed in the order of their numbers, replayed ones apart."""
        wrong = []
        for customer, numbers in self.per_customer.items():
            kept = [number for number in numbers if f"{self.run}-{customer}-{number}" not in replayed]
            if kept != sorted(kept):
                wrong.append(customer)
        return wrong
