"""A handler that fails on one object, or takes the process with it: only that object's lane waits, its event ends among
the dead letters, and the informer goes on. Run as a user runs it, without a broker or a store that was named."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.actor import Actor
from tests.servers.apiserver import ApiServer
from tests.spine.process import Run

APP = """
import json, os, signal
from headrace import App, Event, Retry
from headrace.policy import exponential
from headrace.kubernetes import Watch

app = App("failing")
HISTORY = os.open(os.environ["HISTORY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

@app.on(Watch("configmaps", namespace=os.environ["NAMESPACE"]), retry=Retry(attempts=3, backoff=exponential(initial=0.2, factor=2)))
async def handle(event: Event) -> None:
    how = event.data.get("data", {}).get("how", "")
    os.write(HISTORY, json.dumps([event["name"], event.type.rpartition(".")[2], how]).encode() + b"\\n")
    if how == "raises" and "replayof" not in event:
        raise RuntimeError("this object is too much")
    if how == "kills" and not event.type.endswith(".delete"):
        os.kill(os.getpid(), signal.SIGKILL)
"""


class Failing:
    """One run of the app and what its handler wrote down."""

    def __init__(self, cluster: ApiServer, actor: Actor, folder: Path) -> None:
        app = folder / "failing.py"
        app.write_text(APP)
        self.run = Run(
            folder,
            "",
            app=app,
            KUBECONFIG=str(cluster.kubeconfig),
            NAMESPACE=actor.namespace,
            HEADRACE_BROKER=None,
        )

    def starts(self, name: str) -> list[tuple[str, str]]:
        """The handler's starts for an object, each (verb, how)."""
        path = self.run.history
        lines = path.read_text().splitlines() if path.exists() else []
        return [(verb, how) for found, verb, how in map(json.loads, lines) if found == name]

    def dlq(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "headrace", "dlq", command, "--app", "failing", *options],
            env=self.run.environment,
            cwd=self.run.folder,
            capture_output=True,
            text=True,
        )

    def letters(self) -> list[dict[str, Any]]:
        listing = self.dlq("ls", "--json")
        assert listing.returncode in (0, 3), listing.stderr
        return [json.loads(line) for line in listing.stdout.splitlines()]

    async def until(self, holds: Any, otherwise: str) -> None:
        await asyncio.to_thread(self.run.until, holds, otherwise)


@pytest.fixture
def failing(cluster: ApiServer, actor: Actor, tmp_path: Path) -> Iterator[Failing]:
    made = Failing(cluster, actor, tmp_path)
    yield made
    made.run.close()


async def test_a_handler_that_raises_on_one_object_holds_its_lane_alone(failing: Failing, actor: Actor) -> None:
    await actor.configmap("bad", how="raises")
    for n in range(5):
        await actor.configmap(f"good-{n}")
    failing.run.start()
    await failing.until(lambda: all(failing.starts(f"good-{n}") for n in range(5)), "the others were not handled")
    await failing.until(lambda: len(failing.starts("bad")) == 3, "not three attempts")
    await failing.until(lambda: len(failing.letters()) == 1, "no dead letter")
    await actor.patch("configmaps", "bad", {"data": {"how": "well"}})
    await actor.configmap("later")
    await failing.until(lambda: len(failing.starts("bad")) == 4, "its lane stayed closed")
    await failing.until(lambda: bool(failing.starts("later")), "the informer did not go on")
    assert failing.starts("bad") == [("add", "raises")] * 3 + [("update", "well")]
    assert await asyncio.to_thread(failing.run.stop) == 0
    # The checkpoint is kept beside the app: what ended, among the dead letters or well, is not told again.
    before = failing.run.history.read_bytes()
    failing.run.start()
    await actor.configmap("last")
    await failing.until(lambda: bool(failing.starts("last")), "not told after the restart")
    assert failing.run.history.read_bytes() == before + b'["last", "add", ""]\n'
    assert await asyncio.to_thread(failing.run.stop) == 0


async def test_the_dead_letter_of_a_watch_without_a_broker_is_replayed(failing: Failing, actor: Actor) -> None:
    failing.run.start()
    await actor.configmap("bad", how="raises")
    await failing.until(lambda: len(failing.letters()) == 1, "no dead letter")
    replay = await asyncio.to_thread(failing.dlq, "replay", "--yes")
    assert replay.returncode == 0, replay.stderr
    await failing.until(lambda: failing.starts("bad") == [("add", "raises")] * 4, "the replay did not come")
    await failing.until(lambda: not failing.letters(), "the letter is not finished")


async def test_an_object_that_kills_the_process_is_dead_lettered_and_its_neighbours_are_handled(
    failing: Failing, actor: Actor
) -> None:
    for n in range(3):
        await actor.configmap(f"good-{n}")
    failing.run.start()
    await failing.until(lambda: all(failing.starts(f"good-{n}") for n in range(3)), "the others were not handled")
    await actor.configmap("poison", how="kills")
    await failing.until(lambda: len(failing.letters()) == 1, "no dead letter")
    await actor.configmap("later")
    await failing.until(lambda: bool(failing.starts("later")), "the informer did not go on")
    await actor.delete("configmaps", "poison")
    await actor.patch("configmaps", "good-0", {"data": {"a": "b"}})
    await failing.until(lambda: ("update", "") in failing.starts("good-0"), "not told of an update")
    await failing.until(lambda: ("delete", "kills") in failing.starts("poison"), "not told of its end")
    assert await asyncio.to_thread(failing.run.stop) == 0
    # Once unwatched, then recorded starts, of which the third is its last attempt; its end is told as any other's.
    assert failing.starts("poison") == [("add", "kills")] * 4 + [("delete", "kills")]
