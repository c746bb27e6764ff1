"""The app that is killed: one handler on the source that ``SOURCE`` names, one more on what it publishes.

Each start of a worker takes the next line of the file ``points`` as its fail point; with none left it lives. ``NAME`` is the
app's, so that cells share servers; ``OUTPUTS`` names the channel of the outputs, ``EFFECTS`` the table of a transactional
handler; each may be missing. What is done to an order is said by its kind: ``failing`` once, ``poison`` always, ``rejected``.
"""

import os
from pathlib import Path
from typing import Any

from headrace import App, Delivery, Event, Reject, Retry, exponential
from headrace.http import Receiver
from headrace.kubernetes import Watch
from headrace.stores import Transaction, shared
from headrace.testing.history import History

NAME, SOURCE = os.environ["NAME"], os.environ["SOURCE"]
OUTPUTS, EFFECTS = os.environ.get("OUTPUTS"), os.environ.get("EFFECTS")
POINTS = Path("points")
# The claims of a killed process are free when its lease has run out: a cell need not wait for the usual one.
shared.LEASE, shared.RENEW = 3.0, 0.5

left = POINTS.read_text().split() if POINTS.exists() else []
if left:
    POINTS.write_text("\n".join(left[1:]))
    os.environ["HEADRACE_FAIL_POINT"] = left[0]

app = App(NAME)
history = History(os.environ["HISTORY"])
MARK = "?" if os.environ.get("HEADRACE_STORE", "").startswith("sqlite") else "%s"
SOURCES: dict[str, Any] = {
    "nats": f"{NAME}.created",
    "kafka": f"{NAME}.created",
    "kubernetes": Watch("configmaps", namespace=os.environ.get("NAMESPACE"), label_selector="matrix=yes"),
    "http-sync": Receiver("/orders"),
    "http-durable": Receiver("/orders", mode="durable"),
}


def known_as(id: str) -> str:
    """What the history calls an event: of an object the state, whether it is told as added or updated."""
    return id.rpartition(":")[0] if SOURCE == "kubernetes" else id


def facts(event: Event) -> tuple[str, str]:
    """Key and kind."""
    order = event.data["data"] if SOURCE == "kubernetes" else event.data
    return order["customer"], order["kind"]


def attempt(event: Event, delivery: Delivery) -> dict[str, str]:
    customer, kind = facts(event)
    if kind == "poison" or (kind == "failing" and delivery.attempt == 1):
        raise ValueError("not now")
    if kind == "rejected":
        raise Reject("never")
    history.handled(known_as(event.id), customer)
    return {"customer": customer}


async def plain(event: Event, delivery: Delivery) -> dict[str, str]:
    return attempt(event, delivery)


async def transactional(event: Event, delivery: Delivery, tx: Transaction) -> dict[str, str]:
    await tx.execute(f"INSERT INTO {EFFECTS} VALUES ({MARK})", (known_as(event.id),))
    return attempt(event, delivery)


app.on(
    SOURCES[SOURCE],
    key=None if SOURCE == "kubernetes" else "customer",
    retry=Retry(attempts=3, backoff=exponential(initial=0.05, factor=2, maximum=0.2)),
    publishes=OUTPUTS,
    publish_key="customer" if OUTPUTS else None,
    name="bill",
)(transactional if EFFECTS else plain)

if OUTPUTS:
    outputs = History(os.environ["HISTORY"], handler="seen")

    @app.on(OUTPUTS, key="customer")
    async def seen(event: Event) -> None:
        outputs.handled(known_as(event["causationid"]), event.data["customer"])
