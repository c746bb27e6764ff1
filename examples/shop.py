"""The user's file of the design: channels, a Kubernetes watch and an HTTP receiver in one application.

Run it with ``HEADRACE_BROKER=nats://127.0.0.1:4222 headrace run examples/shop.py``; the watch needs a cluster (``KUBECONFIG``).
"""

import msgspec

from headrace import App, Event, Reject, Retry
from headrace.http import Receiver
from headrace.kubernetes import Watch

app = App("shop")  # the broker is HEADRACE_BROKER: nats://… or kafka://…


class Order(msgspec.Struct):
    id: str
    customer: str
    amount: float


@app.on("order.created", key="customer", retry=Retry(attempts=5), publishes="invoice.created")
async def bill(order: Order) -> dict[str, object]:
    if order.amount < 0:
        raise Reject("negative amount")  # straight to the dead letters
    return {"order": order.id, "total": order.amount}


@app.on(Watch("pods", namespace="shop", label_selector="app=web"))
async def pod_changed(event: Event) -> None:
    print(event.type, event.subject)


@app.on(Receiver("/events"), filters=[{"prefix": {"type": "order."}}])
async def received(event: Event) -> None:
    await app.publish("order.created", event.data)
