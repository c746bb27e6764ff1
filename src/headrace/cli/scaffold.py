"""The files of a new app, as ``headrace new`` writes them. ``{name}`` is the app's name, ``{broker}`` the extra of its broker."""

from __future__ import annotations

from typing import Final

__all__ = ["FILES"]

_APP: Final = '''\
"""The app {name}: what it handles, and how."""

import msgspec

from headrace import App, Reject

app = App("{name}")  # its broker is HEADRACE_BROKER, its store HEADRACE_STORE


class Order(msgspec.Struct):
    id: str
    customer: str
    amount: float


@app.on("order.created", key="customer", publishes="invoice.created")
async def bill(order: Order) -> dict:
    """One customer's orders come one after the other; what fails is tried again, what is rejected is a dead letter."""
    if order.amount < 0:
        raise Reject("negative amount")
    return {{"order": order.id, "total": order.amount}}
'''

_TEST: Final = '''\
"""The app {name} in memory, with virtual time: no server is needed."""

import asyncio

from app import app


def order(id: str, amount: float) -> dict:
    return {{"id": id, "customer": "ada", "amount": amount}}


def test_an_order_is_billed() -> None:
    async def run() -> None:
        async with app.testing() as t:
            await t.send("order.created", order("o1", 12.5))
            assert [event.data for event in t.published] == [{{"order": "o1", "total": 12.5}}]
            assert t.dead_letters == []

    asyncio.run(run())


def test_a_negative_amount_is_rejected_and_the_next_order_is_billed() -> None:
    async def run() -> None:
        async with app.testing() as t:
            await t.send("order.created", order("o2", -1))
            await t.send("order.created", order("o3", 1))
            assert ["negative amount" in letter.reason for letter in t.dead_letters] == [True]
            assert [event.data["order"] for event in t.published] == ["o3"]

    asyncio.run(run())
'''

_REQUIREMENTS: Final = """\
headrace[{broker}]
"""

_REQUIREMENTS_DEV: Final = """\
-r requirements.txt
headrace[dev-server]
pytest
"""

_DOCKERFILE: Final = """\
FROM python:3.13-slim
WORKDIR /srv/{name}
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY app.py .
# The control socket of `headrace handlers` and `headrace trace` lies in .headrace/.
RUN mkdir .headrace && chown 10001:10001 .headrace
USER 10001:10001
# Probes and metrics, and HTTP receivers.
EXPOSE 9464 8080
# SIGTERM drains within 25 seconds; give the container 30.
CMD ["headrace", "run", "app:app"]
"""

_DOCKERIGNORE: Final = """\
**
!app.py
!requirements.txt
"""

_GITIGNORE: Final = """\
.headrace/
__pycache__/
"""

#: Name of each file, and its text.
FILES: Final = {
    "app.py": _APP,
    "test_app.py": _TEST,
    "requirements.txt": _REQUIREMENTS,
    "requirements-dev.txt": _REQUIREMENTS_DEV,
    "Dockerfile": _DOCKERFILE,
    ".dockerignore": _DOCKERIGNORE,
    ".gitignore": _GITIGNORE,
}
