"""The app under test: keyed orders whose outputs are filed, and jobs without a key; each writes down what it handled.

Events say what becomes of them (`KINDS`); while the file ``down`` is there, the dependency of everything fails.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

import msgspec

from headrace import App, Event, Reject, Retry, exponential
from headrace.testing.history import History

__all__ = ["BILLS", "JOBS", "KINDS", "ORDERS", "app"]

#: What an event does: is refused, fails for good, kills a replica that may be killed, fails until it is replayed.
KINDS: Final = ("rejected", "poison", "deadly", "fixable")
RETRY: Final = Retry(attempts=6, backoff=exponential(initial=0.25, factor=2, maximum=5))
#: Seconds of waiting an event, as on a dependency.
WORK: Final = 0.005

name = os.environ.get("SOAK_APP", "soak")
folder = Path(os.environ.get("SOAK_FOLDER", "."))
replica = os.environ.get("SOAK_REPLICA", "a")
mortal = os.environ.get("SOAK_MORTAL") == "1"

app = App(name)
ORDERS, BILLS, JOBS = f"{name}.orders", f"{name}.bills", f"{name}.jobs"
billed = History(folder / "history", handler="bill")
filed = History(folder / "history", handler="file")
done = History(folder / "history", handler="work")
down = folder / "down"
# Who handles events in this replica now: the target of signals.
(folder / f"{replica}.pid").write_text(str(os.getpid()))


class Order(msgspec.Struct):
    customer: str
    kind: str = ""


class Job(msgspec.Struct):
    kind: str = ""


async def _depend() -> None:
    await asyncio.sleep(WORK)
    if down.exists():
        raise ConnectionError("the dependency is down")


def _suffer(kind: str, event: Event) -> None:
    if kind == "rejected":
        raise Reject("it can never be handled")
    if kind == "deadly" and mortal:
        os._exit(1)
    if kind in ("deadly", "poison"):
        raise ValueError("it always fails")
    if kind == "fixable" and "replayof" not in event.attributes:
        raise Reject("it is handled when it is replayed")


@app.on(ORDERS, key="customer", retry=RETRY, publishes=BILLS)
async def bill(order: Order, event: Event) -> dict[str, str]:
    """Outputs are filed by the next handler."""
    await _depend()
    _suffer(order.kind, event)
    billed.handled(event.id, order.customer)
    return {"order": event.id}


@app.on(BILLS, retry=RETRY)
async def file(bill: dict[str, str]) -> None:
    """What arrived of the outputs."""
    filed.handled(bill["order"])


@app.on(JOBS, retry=RETRY)
async def work(job: Job, event: Event) -> None:
    """Shared by all replicas."""
    await _depend()
    _suffer(job.kind, event)
    done.handled(event.id)
