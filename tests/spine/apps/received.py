"""Orders over HTTP, handled before the sender gets its answer."""

import asyncio
import os

from headrace import App, Event
from headrace.http import Receiver
from headrace.testing.history import History

app = App("spine")
history = History(os.environ["HISTORY"])


@app.on(Receiver("/orders"))
async def received(event: Event) -> None:
    await asyncio.sleep(0.005)
    history.handled(event.id)
