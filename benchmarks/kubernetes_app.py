"""What the Kubernetes rows run with ``headrace run``: every change of the pods of one namespace, counted.

It prints a line each time the count reaches one of ``COUNTS``, and writes to ``ARRIVALS``, where that names a file, when each
version came.
"""

import json
import os
import time

from headrace import App, Event
from headrace.kubernetes import Watch

COUNTS = {int(count) for count in os.environ["COUNTS"].split(",")}
ARRIVALS = os.environ.get("ARRIVALS", "")
arrivals: dict[str, float] = {}
seen = 0

app = App("bench")


@app.on(Watch("pods", namespace=os.environ["NAMESPACE"]))
async def changed(event: Event) -> None:
    global seen
    seen += 1
    if ARRIVALS:
        arrivals[event.id.split(":")[1]] = time.time()
    if seen in COUNTS:
        reached()


def reached() -> None:
    if ARRIVALS:
        with open(ARRIVALS, "w") as file:
            json.dump(arrivals, file)
    print(seen, flush=True)
