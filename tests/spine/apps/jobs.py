"""Jobs without a key, written down as they are handled: shared by all replicas.

``WORK``: seconds of waiting a job. ``ACK_WAIT``: seconds after which what a dead replica held is delivered again.
"""

import asyncio
import os

from headrace import App, Event
from headrace.nats import Stream
from headrace.testing.history import History

app = App("spine")
history = History(os.environ["HISTORY"])
WORK = float(os.environ.get("WORK", "0"))


@app.on(Stream("job", subject="job.created", ack_wait=float(os.environ.get("ACK_WAIT", "30"))))
async def work(event: Event) -> None:
    if WORK:
        await asyncio.sleep(WORK)
    history.handled(event.id)
