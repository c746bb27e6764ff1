"""Starts ``headrace run`` as a user would, publishes to it, and reads what its handlers wrote down.

Nothing here knows what is inside: an app is a file, a run is a process with its children, and what happened is in the
history's file, on the admin port and on stderr.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from headrace import App
from headrace.testing.history import Fact, History, Verdict, check

APPS = Path(__file__).parent / "apps"
#: Publications that wait for their confirmation at once.
PIPELINE = 500


class Run:
    """One ``headrace run`` in a folder; several may share it, with different names.

    Args:
        folder: current folder of the process, and where the history is.
        broker: what ``HEADRACE_BROKER`` says.
        app: a file of ``apps/`` without its ending, or a path.
        name: tells the runs of one folder apart.
        arguments: more of the command line.
        environment: more variables; ``None`` takes one away.
    """

    def __init__(
        self,
        folder: Path,
        broker: str,
        *,
        app: str | Path = "orders",
        name: str = "run",
        arguments: Sequence[str] = (),
        **environment: str | None,
    ) -> None:
        self.folder = folder
        self.name = name
        self.app = app if isinstance(app, Path) else APPS / f"{app}.py"
        self.history = folder / "history"
        self.errors = folder / f"{name}.stderr"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        self.environment |= {
            "HEADRACE_BROKER": broker,
            "HEADRACE_ADMIN": "127.0.0.1:0",
            "HEADRACE_HTTP": "127.0.0.1:0",
            "HISTORY": str(self.history),
        }
        for variable, value in environment.items():
            if value is None:
                self.environment.pop(variable, None)
            else:
                self.environment[variable] = value
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Run:
        with self.errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "headrace", "run", str(self.app), *self._arguments],
                cwd=self.folder,
                env=self.environment,
                stderr=errors,
            )
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def pids(self) -> list[int]:
        """The process and all below it."""
        found = [self.process.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    found.extend(int(child) for child in children.read_text().split())
                except OSError:
                    continue  # it ended meanwhile
        return found

    def workers(self) -> list[int]:
        """The processes that handle events: the leaves."""
        pids = self.pids()
        return pids[1:] or pids

    def signal_all(self, number: signal.Signals) -> None:
        """A signal to the process and all below it, the lowest last."""
        for pid in self.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def kill(self) -> None:
        """SIGKILL to all of it, as a node that loses power would; nothing of it runs when this returns."""
        pids = self.pids()
        self.signal_all(signal.SIGKILL)
        self.process.wait(20)
        while any(_runs(pid) for pid in pids):
            time.sleep(0.001)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within: float = 40.0) -> int:
        """One signal to the process itself, and its exit code."""
        self.process.send_signal(number)
        return self.process.wait(within)

    def exit_code(self, within: float = 40.0) -> int:
        """Wait until it ends by itself."""
        return self.process.wait(within)

    def close(self) -> None:
        """Leave nothing running."""
        if not self.ended:
            self.signal_all(signal.SIGCONT)
            self.kill()

    def text(self) -> str:
        """Everything on stderr so far."""
        return self.errors.read_text() if self.errors.exists() else ""

    # What it serves

    def address(self, what: str = "admin") -> str:
        """The address of a listener that it printed last; waits for it."""
        self.until(lambda: f"listening {what}=" in self.text(), f"no listener {what!r}")
        return re.findall(rf"listening {what}=(\S+)", self.text())[-1]

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page of the admin port; 0 where it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self.address()}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            found = re.fullmatch(r"headrace_(\w+)(?:\{(.*)\})? (\S+)", line)
            if found is None or found[1] != name:
                continue
            given = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            if all(given.get(label) == value for label, value in labels.items()):
                total += float(found[3])
        return total

    def letters(self, *arguments: str) -> list[dict[str, Any]]:
        """What ``headrace dlq ls --json`` says."""
        listing = subprocess.run(
            [sys.executable, "-m", "headrace", "dlq", "ls", "--app", "spine", "--json", *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        assert listing.returncode in (0, 3), listing.stderr
        return [json.loads(line) for line in listing.stdout.splitlines()]

    # What happened

    def facts(self) -> list[Fact]:
        return History.read(self.history) if self.history.exists() else []

    def handled(self) -> set[str]:
        """Ids of the events that were handled."""
        return {fact.id for fact in self.facts() if fact.what == "handled"}

    def until(self, holds: Callable[[], bool], otherwise: str, *, within: float = 90.0) -> None:
        """Wait until a condition holds, for as long as the process lives."""
        end = time.monotonic() + within
        while not holds():
            if self.ended:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}: {self.text()[-3000:]}")
            if time.monotonic() > end:
                raise AssertionError(f"{otherwise} within {within:g} s: {self.text()[-3000:]}")
            time.sleep(0.03)

    def until_handled(self, count: int, *, within: float = 90.0) -> None:
        """Wait until so many different events were handled."""
        counter = Counting(self.history)
        self.until(lambda: counter.count() >= count, f"not {count} events handled", within=within)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Counting:
    """Counts the different events handled in a history that grows, without reading it again and again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self.ids: set[str] = set()

    def count(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                whole, _, _ = file.read().rpartition(b"\n")
            if whole:
                self._at += len(whole) + 1
                for line in whole.split(b"\n"):
                    fact = json.loads(line)
                    if fact[0] == "handled":
                        self.ids.add(fact[1])
        return len(self.ids)


class Publisher:
    """Publishes to a broker and writes down what was confirmed, in the order of publication."""

    def __init__(self, url: str, history: Path) -> None:
        self._app = App("publisher", broker=url)
        self._history = History(history)

    async def __aenter__(self) -> Publisher:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._app.close()
        self._history.close()

    async def orders(self, events: Iterable[tuple[str, str, str]]) -> None:
        """Publish orders, each (id, customer, kind)."""
        await self._publish(
            "order.created", [(id, customer, {"customer": customer, "kind": kind}) for id, customer, kind in events]
        )

    async def jobs(self, ids: Iterable[str]) -> None:
        """Publish jobs, which have no key."""
        await self._publish("job.created", [(id, None, {"job": id}) for id in ids])

    async def _publish(self, channel: str, events: Sequence[tuple[str, str | None, dict[str, Any]]]) -> None:
        for start in range(0, len(events), PIPELINE):
            batch = events[start : start + PIPELINE]
            await asyncio.gather(*(self._app.publish(channel, data, id=id, source="/tests") for id, _, data in batch))
            for id, key, _ in batch:
                self._history.published(id, key)


def orders(count: int, customers: int, *, first: int = 0, prefix: str = "o") -> list[tuple[str, str, str]]:
    """Good orders, customers in turn."""
    return [(f"{prefix}{n}", f"c{n % customers}", "") for n in range(first, first + count)]


def publish(run: Run, events: Iterable[tuple[str, str, str]], *, broker: str | None = None) -> None:
    """Publish orders to a run's broker, and return when all are confirmed."""

    async def go() -> None:
        async with Publisher(broker or run.environment["HEADRACE_BROKER"], run.history) as publisher:
            await publisher.orders(events)

    asyncio.run(go())


def publish_jobs(run: Run, ids: Iterable[str]) -> None:
    """Publish jobs to a run's broker, and return when all are confirmed."""

    async def go() -> None:
        async with Publisher(run.environment["HEADRACE_BROKER"], run.history) as publisher:
            await publisher.jobs(ids)

    asyncio.run(go())


def verdict(run: Run, *, handled_only: bool = False) -> Verdict:
    """Judge the whole history, with the dead letters that the command lists."""
    facts = run.facts()
    if not handled_only:
        facts += [Fact("dead", letter["event_id"]) for letter in run.letters("--state", "dead")]
    return check(facts)


def disorder(run: Run, found: Verdict) -> list[str]:
    """What was out of order. A process that says in its log that it lost its ownership (its server was started again and knows
    no owner any more) gave up what it held: from there on it may repeat, as a new owner would."""
    return skips(found) if "are given up" in run.text() else found.disorder


def skips(found: Verdict) -> list[str]:
    """Only where an event was handled before an earlier one of its key: an owner that comes back may repeat what it has
    handled and not settled."""
    return [sentence for sentence in found.disorder if "by the same process" not in sentence]
