"""Starts ``headrace run`` as a user would, and reads what its handlers wrote down."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

APP = """
import asyncio, json, os
import msgspec
from headrace import App, Delivery, Event, Reject, Retry, exponential

app = App("spine")
HISTORY = os.open(os.environ["HISTORY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

class Order(msgspec.Struct):
    id: str
    customer: str
    number: int

@app.on("order.created", key="customer", retry=Retry(attempts=3, backoff=exponential(initial=0.05)))
async def bill(order: Order, delivery: Delivery) -> None:
    if order.customer == "poison":
        raise ValueError("always")
    if order.customer == "rejected":
        raise Reject("never")
    await asyncio.sleep(float(os.environ.get("WORK", "0")))
    line = json.dumps([order.customer, order.number, delivery.attempt, os.getpid()]) + "\\n"
    os.write(HISTORY, line.encode())
"""


class Run:
    """One ``headrace run`` on a folder of its own."""

    def __init__(self, folder: Path, broker: str, *, store: str | None = None, work: float = 0.0, **more: str) -> None:
        self.folder = folder
        self.history = folder / "history"
        (folder / "spine_app.py").write_text(APP)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_B")},
            "HEADRACE_BROKER": broker,
            "HEADRACE_ADMIN": "127.0.0.1:0",
            "HISTORY": str(self.history),
            "WORK": str(work),
            **more,
        }
        if store is not None:
            self.environment["HEADRACE_STORE"] = store
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = folder / "stderr"

    def start(self) -> Run:
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headrace", "run", "spine_app.py"],
                cwd=self.folder,
                env=self.environment,
                stderr=errors,
            )
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(40)

    def admin(self) -> str:
        """The address of the admin port that it printed last."""
        return re.findall(r"listening admin=(\S+)", self.errors.read_text())[-1]

    def handled(self) -> list[tuple[str, int, int, int]]:
        if not self.history.exists():
            return []
        return [tuple(json.loads(line)) for line in self.history.read_text().splitlines()]

    def wait(self, count: int, seconds: float = 60.0) -> None:
        """Until so many different events have been handled."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if len({(customer, number) for customer, number, *_ in self.handled()}) >= count:
                return
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(
                    f"headrace run ended with {self.process.returncode}: {self.errors.read_text()[-2000:]}"
                )
            time.sleep(0.02)
        raise AssertionError(f"{len(self.handled())} handled, {count} expected: {self.errors.read_text()[-2000:]}")


def violations(handled: list[tuple[str, int, int, int]], *, rewinds: bool) -> list[str]:
    """Where an event of a key was handled before an earlier one of it; with ``rewinds`` going back is allowed."""
    wrong = []
    highest: dict[str, int] = {}
    last: dict[str, int] = {}
    for customer, number, *_ in handled:
        if number > highest.get(customer, -1) + 1:
            wrong.append(f"{customer}: {number} before {highest.get(customer, -1) + 1}")
        if not rewinds and number <= last.get(customer, -1):
            wrong.append(f"{customer}: {number} after {last[customer]}")
        if number != last.get(customer, -1) + 1 and number > last.get(customer, -1):
            wrong.append(f"{customer}: skipped to {number}")
        highest[customer] = max(highest.get(customer, -1), number)
        last[customer] = number
    return wrong
