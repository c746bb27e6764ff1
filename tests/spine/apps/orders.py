"""Keyed orders, written down as they are handled. What it does to an order is said by the environment and by the order's kind.

Some kinds take the process with them (`KILLERS`). ``WORK``: seconds of waiting an order. ``HISTORY``: the file of facts.
``MEND``: while this file is missing, orders of the kind ``failing`` fail. ``ATTEMPTS``: attempts an order. ``KEY``: its key,
empty for none.
"""

import asyncio
import ctypes
import os
import time

import msgspec

from headrace import App, Delivery, Event, Reject, Retry, exponential
from headrace.testing.history import History

app = App("spine")
history = History(os.environ["HISTORY"])
WORK = float(os.environ.get("WORK", "0"))
MEND = os.environ.get("MEND", "mend")
RETRY = Retry(attempts=int(os.environ.get("ATTEMPTS", "3")), backoff=exponential(initial=0.05, factor=2, maximum=0.5))


class Order(msgspec.Struct):
    customer: str
    kind: str = ""


def _block() -> None:
    while True:
        time.sleep(1)


def _eat() -> None:
    held = []
    while True:
        held.append(bytearray(32 * 2**20))
        time.sleep(0.02)


#: What ends the process: by its own hand, by a fault of the memory, by the watchdog, by whoever watches its memory.
KILLERS = {"exit": lambda: os._exit(1), "segfault": lambda: ctypes.string_at(0), "block": _block, "eat": _eat}


@app.on(
    "order.created",
    key=os.environ.get("KEY", "customer") or None,
    retry=RETRY,
    timeout=float(os.environ.get("TIMEOUT", "30")),
)
async def bill(order: Order, event: Event, delivery: Delivery) -> None:
    if order.kind == "poison":
        raise ValueError("always")
    if order.kind == "rejected":
        raise Reject("never")
    if order.kind in KILLERS:
        KILLERS[order.kind]()
    if order.kind == "endless":
        await asyncio.Event().wait()
    if order.kind == "failing" and not os.path.exists(MEND):  # noqa: ASYNC240 - one look, as cheap as the attempt
        raise ConnectionError("not mended yet")
    if WORK:
        await asyncio.sleep(WORK)
    history.handled(event.id, order.customer)
    if delivery.attempt > 1 and order.kind != "failing":
        os.write(2, f"tried again: {event.id}\n".encode())
