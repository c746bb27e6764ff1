"""Core NATS requests, answered by key; an event of the same app beside them, so that there is a consumer to own."""

import os

from headrace import App, Event, Reject, RetryAfter
from headrace.nats import Stream, Subject
from headrace.testing.history import History

app = App("spine")
history = History(os.environ["HISTORY"])


@app.on(Subject("price.of"), key="customer")
async def price(request: dict) -> dict:
    match request["kind"]:
        case "rejected":
            raise Reject("no such customer")
        case "later":
            raise RetryAfter(7)
        case "broken":
            raise ValueError("boom")
    return {"price": 12.5, "pid": os.getpid()}


@app.on(Stream("order", subject="order.created"), key="customer")
async def bill(order: dict, event: Event) -> None:
    history.handled(event.id, order["customer"])


@app.on("job.created")
async def work(event: Event) -> None:
    history.handled(event.id)
