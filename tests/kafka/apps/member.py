"""One member of a group: writes down the place of each record that it has handled.

``APP``, ``TOPIC``: names. ``WORK``: seconds of waiting a record. ``HISTORY``: the file of facts.
"""

import asyncio
import os

from headrace import App, Delivery, Event
from headrace.testing.history import History

app = App(os.environ["APP"])
history = History(os.environ["HISTORY"])
WORK = float(os.environ["WORK"])


@app.on(os.environ["TOPIC"])
async def bill(event: Event, delivery: Delivery) -> None:
    where = delivery.metadata
    await asyncio.sleep(WORK)
    history.handled(f"{where['partition']}/{where['offset']}", str(where["record_key"]))
