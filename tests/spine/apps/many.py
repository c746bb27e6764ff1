"""Events of a stream with very many subjects, each subject a key of its own."""

import os

from headrace import App, Event
from headrace.nats import Stream
from headrace.testing.history import History

app = App("spine")
history = History(os.environ["HISTORY"])


@app.on(Stream("many", subject="many.>"), key="subject")
async def count(data: dict, event: Event) -> None:
    history.handled(event.id, data["subject"])
