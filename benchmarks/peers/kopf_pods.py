"""kopf's watch of pods with the smallest handler, as its documentation writes it; started by ``kopf run``.

It counts events and prints a line each time the count reaches one of ``COUNTS``. Runs in the peers' environment.
"""

import os
from typing import Any

import kopf

COUNTS = {int(count) for count in os.environ["COUNTS"].split(",")}
seen = 0


@kopf.on.event("pods")
async def changed(event: Any, **_: Any) -> None:
    global seen
    seen += 1
    if seen in COUNTS:
        print(seen, flush=True)
