"""A user's file with the whole public surface. mypy --strict must find nothing in it; it is checked, never run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict

import msgspec
import pydantic

import headrace.kafka
from headrace import App, Delivery, Drop, Event, Reject, Retry, RetryAfter, Router, exponential
from headrace.http import Endpoint, Receiver
from headrace.kubernetes import Watch
from headrace.nats import Stream, Subject
from headrace.stores import Transaction


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    yield


app = App("shop", broker="nats://127.0.0.1:4222", store="sqlite:///shop.db", lifespan=lifespan, concurrency=100)
router = Router()


class Order(msgspec.Struct):
    id: str
    customer: str
    amount: float


class Model(pydantic.BaseModel):
    id: str


@dataclass
class Plain:
    id: str


class Typed(TypedDict):
    id: str


@app.on("order.created", key="customer", retry=Retry(attempts=5), publishes="invoice.created", publish_key="order")
async def bill(order: Order) -> dict[str, object]:
    if order.amount < 0:
        raise Reject("negative amount")
    if order.amount == 0:
        raise Drop("nothing to bill")
    if order.amount > 1e6:
        raise RetryAfter(60)
    return {"order": order.id, "total": order.amount}


@app.on(
    "order.placed",
    key=lambda event: str(event["partitionkey"]),
    concurrency=8,
    retry=Retry(
        attempts=3,
        backoff=exponential(initial=1, factor=2, maximum=30),
        budget=120,
        on=(ConnectionError,),
        order="hold",
        on_exhausted="stop",
    ),
    timeout=5.0,
    idempotent=lambda event: f"{event.source} {event.id}",
    filters=[{"prefix": {"type": "order."}}],
    start="latest",
    ack="last",
    name="placed",
)
async def placed(event: Event, delivery: Delivery) -> None:
    attempt: int = delivery.attempt
    parts: tuple[str, str, str, str | None, datetime | None] = (
        event.id,
        event.source,
        event.type,
        event.subject,
        event.time,
    )
    more: tuple[str | None, str | None, str, bytes | None] = (
        event.dataschema,
        event.datacontenttype,
        event.specversion,
        event.raw,
    )
    order: Order = event.data_as(Order)
    text: str = event.attributes["id"]
    changed: Event = event.replace(subject="s")
    back: Event = Event.from_json(changed.to_json())
    made = Event(type="order.kept", source="/shop", data={"id": order.id}, subject="s", tenant="t")
    published = await app.publish("order.kept", made, key="k")
    print(attempt, parts, more, text, back, event["tenant"], event.data, published.duplicate)


@router.on(Subject("order.ask", queue="shop"))
def plain(data: Plain) -> Plain:
    return data


@router.on(Stream("ORDERS", subject="order.>", durable="shop"), publishes=Endpoint("https://example.com/hook"))
async def many(model: Model) -> AsyncIterator[dict[str, str]]:
    yield {"id": model.id}


@router.on(headrace.kafka.Topic("order.created", group="shop"))
async def typed(data: Typed) -> list[str]:
    return [data["id"]]


@app.on(Watch("pods", namespace="shop", label_selector="app=web"))
async def pod_changed(event: Event) -> None: ...


@app.on(Receiver("/events"))
async def received(event: Event, tx: Transaction) -> None:
    rows = await tx.execute("SELECT 1 WHERE 1 = ?", parameters=(1,))
    print(rows)


@app.on("raw")
async def raw(body: bytes) -> None: ...


app.include_router(router)


async def test_it() -> None:
    async with app.testing() as t:
        sent: Event = await t.send("order.created", {"id": "o1"}, type="t", subject="s", key="k")
        t.faults.handler("bill", ConnectionError("away"), times=2)
        ids: list[str] = [event.id for event in t.published]
        reasons: list[str] = [letter.reason for letter in t.dead_letters]
        print(sent.id, ids, reasons)


asgi: Any = app.asgi
