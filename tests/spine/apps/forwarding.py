"""Keyed orders, each forwarded as an invoice (to the channel ``TO``), and written down when the handler returns. ``WORK``: seconds
of waiting."""

import asyncio
import os

from headrace import App, Event
from headrace.testing.history import History

app = App("spine")
history = History(os.environ["HISTORY"])
WORK = float(os.environ.get("WORK", "0"))


@app.on("order.created", key="customer", publishes=os.environ.get("TO", "invoice.created"))
async def bill(order: dict, event: Event) -> dict:
    if WORK:
        await asyncio.sleep(WORK)
    history.handled(event.id, order["customer"])
    return {"order": event.id, "pad": "x" * 500}
