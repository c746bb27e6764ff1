"""Keyed orders of an explicit stream, written down as they are handled; those of the kind ``poison`` are rejected until the
file ``mend`` is there.

``WORK``: seconds of waiting an order. ``ACK_WAIT``: the consumer's, in seconds. ``CREATE=0``: nothing is created.
"""

import asyncio
import os

from headrace import App, Event, Reject
from headrace.nats import Stream
from headrace.testing.history import History

app = App("spine")
history = History(os.environ["HISTORY"])
WORK = float(os.environ.get("WORK", "0"))
SOURCE = Stream(
    "order",
    subject="order.created",
    ack_wait=float(os.environ.get("ACK_WAIT", "30")),
    create=os.environ.get("CREATE", "1") == "1",
)


@app.on(SOURCE, key="customer")
async def bill(order: dict, event: Event) -> None:
    if order["kind"] == "poison" and not os.path.exists("mend"):  # noqa: ASYNC240 - one look, as cheap as the attempt
        raise Reject("not yet")
    if WORK:
        await asyncio.sleep(WORK)
    history.handled(event.id, order["customer"])
