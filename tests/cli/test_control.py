"""``headrace handlers`` and ``trace`` on running processes of one app that share a folder."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Command
from tests.servers.nats import Nats

APP = """
import asyncio, os, pathlib
from headrace import App, Event, Retry, exponential

app = App("watched")

@app.on("{channel}.created", concurrency=2, publishes="{channel}.done")
async def bill(event: Event) -> dict:
    while event.id in pathlib.Path("held").read_text().split():
        await asyncio.sleep(0.02)
    if event.id.startswith("bad"):
        raise ValueError("no good")
    with open("history", "a") as history:
        history.write(event.id + "\\n")
    return {{"done": event.id}}

@app.on("{channel}.failing", key="@subject", retry=Retry(attempts=3, backoff=exponential(initial=60)))
async def failing(event: Event) -> None:
    raise ValueError("no good")
"""


class Processes:
    """``headrace run`` in one folder, as often as asked."""

    def __init__(self, folder: Path, url: str, channel: str) -> None:
        self.folder = folder
        self.channel = channel
        self.command = Command(folder, HEADRACE_BROKER=url, HEADRACE_ADMIN="127.0.0.1:0", HEADRACE_APP="watched")
        (folder / "watched_app.py").write_text(APP.format(channel=channel))
        (folder / "held").write_text("")
        self.running: list[subprocess.Popen[str]] = []

    def sockets(self) -> set[Path]:
        return set((self.folder / ".headrace").glob("watched-*.sock"))

    def start(self) -> Path:
        """Start one more and wait for its worker's socket."""
        before = self.sockets()
        log = self.folder / f"errors{len(self.running)}"
        with log.open("w") as errors:
            process = self.command.start("run", "watched_app.py", stderr=errors, stdout=errors)
        self.running.append(process)
        new = self.until(lambda: process.poll() is not None or self.sockets() - before)
        assert process.poll() is None, log.read_text()
        (socket,) = new
        assert isinstance(socket, Path)
        self.until(lambda: self.command("handlers", "ls").code == 0)
        return socket

    def until(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError("it did not happen")

    def send(self, name: str, id: str, **options: str) -> None:
        more = [word for option, value in options.items() for word in (f"--{option}", value)]
        done = self.command("send", f"{self.channel}.{name}", "--id", id, "-d", "{}", *more)
        assert done.code == 0, done.err

    def handlers(self, *arguments: str) -> list[dict[str, Any]]:
        done = self.command("handlers", *arguments, "--json")
        assert done.code == 0, done.err
        return done.objects

    def handled(self) -> list[str]:
        history = self.folder / "history"
        return history.read_text().split() if history.exists() else []

    def hold(self, *ids: str) -> None:
        part = self.folder / "held.part"
        part.write_text(" ".join(ids))
        part.replace(self.folder / "held")


@pytest.fixture
def processes(tmp_path: Path, nats_server: Nats, request: pytest.FixtureRequest) -> Iterator[Processes]:
    channel = re.sub(r"\W", "", request.node.name)[:40]
    found = Processes(tmp_path, nats_server.url, channel)
    yield found
    for process in found.running:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_the_socket_is_for_its_user_alone_and_goes_with_its_process(processes: Processes) -> None:
    socket = processes.start()
    (process,) = processes.running
    assert stat.S_IMODE(os.stat(socket).st_mode) == 0o600
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0
    assert not socket.exists()
    done = processes.command("handlers", "ls")
    assert done.code == 4
    assert "no process of app 'watched'" in done.err


def test_pause_and_resume_reach_every_process_and_lose_nothing(processes: Processes) -> None:
    pids = sorted(int(processes.start().stem.rpartition("-")[2]) for _ in range(2))
    rows = processes.handlers("pause", "bill", "--reason", "database work")
    assert [(row["pid"], row["handler"], row["paused"]) for row in rows] == [(pid, "bill", True) for pid in pids]
    assert rows[0]["pause"] == {"by": "ann", "reason": "database work"}
    for number in range(5):
        processes.send("created", f"order-{number}")
    listed = {(row["pid"], row["handler"]): row["paused"] for row in processes.handlers("ls")}
    assert listed == {(pid, name): name == "bill" for pid in pids for name in ("bill", "failing")}
    assert "paused by ann (database work)" in processes.command("handlers", "ls").out
    assert processes.handled() == []
    processes.handlers("resume", "bill")
    processes.until(lambda: len(set(processes.handled())) == 5)


def test_a_killed_process_leaves_no_ghost(processes: Processes) -> None:
    stays, goes = processes.start(), processes.start()
    processes.running[1].kill()
    processes.running[1].wait()
    processes.until(lambda: len({row["pid"] for row in processes.handlers("ls")}) == 1)
    assert processes.sockets() == {stays}
    assert not goes.exists()


def test_show_tells_policy_owner_times_and_errors(processes: Processes) -> None:
    processes.start()
    processes.send("failing", "bad-1", subject="ann")
    processes.until(lambda: processes.handlers("show", "failing")[0]["parked"])
    (row,) = processes.handlers("show", "failing")
    assert row["exceptions"] == {"ValueError": 1}
    assert "in order per key" in row["policy"]
    assert "3 attempts" in row["policy"]
    assert row["seconds"]["p50"] is not None
    assert [(lane["key"], lane["events"]) for lane in row["parked_lanes"]] == [("ann", 1)]
    assert {source["ownership"] for source in row["sources"]} <= {"owned by this process", "shared by all replicas"}
    unknown = processes.command("handlers", "show", "nobody")
    assert unknown.code == 3
    assert "it has bill, failing" in unknown.err


def test_trace_follows_an_event_from_its_attempt_to_its_dead_letter(processes: Processes) -> None:
    processes.hold("order-1")
    processes.start()
    processes.send("created", "order-1")
    processes.send("failing", "bad-1", subject="ann")

    def traced(id: str) -> list[dict[str, Any]]:
        return processes.command("trace", id, "--json").objects

    (held,) = processes.until(lambda: [one for one in traced("order-1") if one["state"] == "running"])
    assert (held["what"], held["handler"], held["attempt"]) == ("delivery", "bill", 1)
    assert held["outputs"][0]["to"] == f"{processes.channel}.done"
    (parked,) = processes.until(lambda: [one for one in traced("bad-1") if one["failed"]])
    assert parked["lane"] == "ann"
    assert parked["failed"][0]["exception"] == "ValueError"
    assert parked["state"].startswith("waiting ")
    processes.hold()
    processes.until(lambda: processes.handled() == ["order-1"])
    processes.until(lambda: not traced("order-1"))
    assert processes.command("trace", "order-1").code == 3


def test_trace_finds_dead_letters_of_an_app_that_does_not_run(processes: Processes) -> None:
    from tests.cli.letters import make, plant

    plant("watched", [make("watched", 1)], HEADRACE_BROKER=processes.command.variables["HEADRACE_BROKER"])
    done = processes.command("trace", "order-1", "--json")
    assert done.code == 0
    assert [(one["what"], one["state"]) for one in done.objects] == [("dead letter", "dead")]
    assert "only dead letters are looked at" in done.err
