"""What ``headrace run`` does beside its flow: answers requests, stands by ready, and is idle where there is nothing to do."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats as client
import pytest

from tests.servers.nats import Nats
from tests.spine.conftest import Start
from tests.spine.conftest import start as start
from tests.spine.process import Run, orders, publish


@pytest.fixture
def nats(start_nats: Callable[..., Nats]) -> Nats:
    """A server of the test's own: nobody else makes it busy."""
    return start_nats()


def bill(run: Run) -> dict[str, Any]:
    """What health says about the keyed handler's source."""
    found: dict[str, Any] = json.loads(run.get("/readyz")[1])["handlers"]["bill"]["sources"][0]
    return found


def pair(start: Start) -> tuple[Run, Run]:
    """Two replicas, the owner of the keyed handler and a stand-by that knows who it is."""
    runs = [start(app="asked", name=f"replica{number}") for number in range(2)]
    for run in runs:
        run.until(run.ready, "not ready")
    publish(runs[0], orders(5, 2))
    runs[0].until_handled(5)
    runs[0].until(lambda: any(bill(run).get("owned_by") for run in runs), "no stand-by knows the owner")
    owner, standby = sorted(runs, key=lambda run: not bill(run)["owner"])
    return owner, standby


def test_a_stand_by_is_ready_answers_requests_and_names_the_owner(nats: Nats, start: Start) -> None:
    owner, standby = pair(start)
    assert standby.ready()
    assert bill(standby)["owner"] is False
    assert bill(standby)["owned_by"] == f"pid {owner.workers()[-1]} on {os.uname().nodename}"

    async def ask() -> set[int]:
        connection = await client.connect(nats.url)
        answered: set[int] = set()
        async with asyncio.timeout(60):
            while len(answered) < 2:
                request = json.dumps({"customer": "c", "kind": ""}).encode()
                answered.add(json.loads((await connection.request("price.of", request, timeout=10)).data)["pid"])
        await connection.close()
        return answered

    # Requests have no consumer that could be owned: the queue group shares them, a stand-by answers its part.
    assert asyncio.run(ask()) == {owner.workers()[-1], standby.workers()[-1]}
    assert [run.stop() for run in (owner, standby)] == [0, 0]


def test_a_failed_request_is_answered_with_an_error_header(nats: Nats, start: Start) -> None:
    run = start(app="asked")
    run.until(run.ready, "not ready")

    async def ask(data: dict[str, str]) -> dict[str, str]:
        connection = await client.connect(nats.url)
        answer = await connection.request("price.of", json.dumps(data).encode(), timeout=10)
        await connection.close()
        return {**(answer.headers or {}), "data": answer.data.decode()}

    expected = {
        "rejected": ("no such customer", "422"),
        "later": ("", "503"),
        "broken": ("ValueError: boom", "503"),
    }
    for kind, (words, code) in expected.items():
        headers = asyncio.run(ask({"customer": "c", "kind": kind}))
        assert words in headers["Nats-Service-Error"]
        assert headers["Nats-Service-Error-Code"] == code
        assert headers["data"] == ""
        assert headers.get("Retry-After") == ("7" if kind == "later" else None)
    assert asyncio.run(ask({"kind": "no customer"}))["Nats-Service-Error-Code"] == "400"
    assert not run.letters()
    assert run.stop() == 0


def wakes(run: Run) -> int:
    """How often the worker's loop and the supervisor have waited so far."""
    total = 0
    for pid in run.pids():
        status = Path(f"/proc/{pid}/status").read_text()
        total += int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return total


def test_an_idle_owner_and_an_idle_stand_by_hardly_wake(nats: Nats, start: Start) -> None:
    """Six sources: each looks around once a second at most and gets an answer; the owner of a consumer pulls every 2 s."""
    runs = pair(start)
    seconds = 10
    before = [wakes(run) for run in runs]
    time.sleep(seconds)  # what is measured
    for run, count, name in zip(runs, before, ("owner", "stand-by"), strict=True):
        rate = (wakes(run) - count) / seconds
        print(f"an idle {name} wakes {rate:.1f} times a second")
        assert rate < 15
    assert [run.stop() for run in runs] == [0, 0]
