"""The example app as a user runs it, on a real API server and a real Alertmanager."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.actor import Actor
from tests.servers.alertmanager import Alertmanager
from tests.servers.apiserver import ApiServer

WATCHDOG = Path(__file__).parents[2] / "examples" / "watchdog" / "watchdog.py"
OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "0-0", "controller": True}


def crashing(restarts: int) -> dict[str, Any]:
    waiting = {"reason": "CrashLoopBackOff"}
    container = {"name": "main", "image": "none", "imageID": "", "ready": False, "restartCount": restarts}
    return {"phase": "Running", "containerStatuses": [{**container, "state": {"waiting": waiting}}]}


def healthy() -> dict[str, Any]:
    container = {"name": "main", "image": "none", "imageID": "", "ready": True, "restartCount": 0}
    state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    return {"phase": "Running", "containerStatuses": [{**container, "state": state}]}


def firing(server: Alertmanager, namespace: str) -> dict[tuple[str, str], str]:
    """The alerts that fire for a namespace: (pod, alert's name) to its summary and repair."""
    with urllib.request.urlopen(f"{server.url}/api/v2/alerts", timeout=10) as answer:
        alerts = json.load(answer)
    return {
        (alert["labels"]["pod"], alert["labels"]["alertname"]): " ".join(alert["annotations"].values())
        for alert in alerts
        if alert["labels"].get("namespace") == namespace
    }


class Example:
    """``headrace run`` on the example."""

    def __init__(self, cluster: ApiServer, alertmanager: Alertmanager, folder: Path) -> None:
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
            "KUBECONFIG": str(cluster.kubeconfig),
            "ALERTMANAGER_URL": alertmanager.url,
            "HEADRACE_ADMIN": "127.0.0.1:0",
            "HEADRACE_STORE": f"sqlite:///{folder}/watchdog.db",
            "WATCHDOG_PENDING": "2",
            "WATCHDOG_LOOK": "1",
            "WATCHDOG_REPAIRS": "1",
        }
        self._folder = folder

    async def start(self) -> None:
        command = (sys.executable, "-m", "headrace", "run", str(WATCHDOG))
        with (self._folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, env=self._environment, cwd=self._folder, stderr=log
            )

    async def stop(self) -> int:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self._process.wait(), 40)

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()


@pytest.fixture
async def example(
    cluster: ApiServer, alertmanager_server: Alertmanager, tmp_path: Path
) -> AsyncIterator[Callable[[Callable[[], object]], Any]]:
    """Starts the example; what it yields waits until something is so."""
    running = Example(cluster, alertmanager_server, tmp_path)
    await running.start()

    async def until(done: Callable[[], object]) -> None:
        for _ in range(600):
            if await asyncio.to_thread(done):
                return
            assert running._process.returncode is None, running.log
            await asyncio.sleep(0.1)
        raise AssertionError(f"not so within 60 s:\n{running.log[-4000:]}")

    yield until
    assert await running.stop() == 0, running.log


async def test_the_watchdog_alerts_recovers_and_repairs_within_its_budget(
    actor: Actor, alertmanager_server: Alertmanager, example: Callable[[Callable[[], object]], Any]
) -> None:
    def alerts() -> dict[tuple[str, str], str]:
        return firing(alertmanager_server, actor.namespace)

    await actor.pod("well")
    await actor.status("well", healthy())
    await actor.pod("stuck")
    await actor.pod("loops")
    await actor.status("loops", crashing(2))
    await example(lambda: ("loops", "PodCrashLooping") in alerts())
    await example(lambda: ("stuck", "PodPending") in alerts())
    assert alerts()["loops", "PodCrashLooping"] == "container main was restarted 2 times"
    assert not [pod for pod, _ in alerts() if pod == "well"]

    await actor.status("loops", healthy())
    await actor.status("stuck", healthy())
    await example(lambda: not alerts())

    for name in ("first", "second"):
        await actor.pod(name, ownerReferences=[OWNER])
        await actor.status(name, crashing(7))
        await example(lambda name=name: (name, "PodCrashLooping") in alerts() or name == "first")
    await example(lambda: "the budget of 1 actions" in alerts().get(("second", "PodCrashLooping"), ""))
    left = {pod["metadata"]["name"] for pod in await actor.list("pods")}
    assert left == {"well", "stuck", "loops", "second"}
    audits = [event for event in await actor.list("events") if event.get("reason") == "Repair"]
    assert [event["involvedObject"]["name"] for event in audits] == ["first"]
    assert audits[0]["message"] == "delete by watchdog: crash-looping, 7 restarts"

    # Gone: its alert ends, whoever deleted it.
    await actor.delete("pods", "second")
    await example(lambda: not alerts())
