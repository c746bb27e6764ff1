"""Jobs without a key, written down as they are handled: shared by all replicas. ``WORK``: seconds of waiting a job."""

import asyncio
import os

from headrace import App, Event
from headrace.testing.history import History

app = App("spine")
history = History(os.environ["HISTORY"])
WORK = float(os.environ.get("WORK", "0"))


@app.on("job.created")
async def work(event: Event) -> None:
    if WORK:
        await asyncio.sleep(WORK)
    history.handled(event.id)
