"""``headrace run`` on a real nats-server: kills, drains, poison, bad configuration."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace import App
from headrace.nats.embedded import Embedded
from tests.spine.process import Run, violations


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "nats") as server:
        yield server


async def publish(url: str, orders: list[dict[str, object]]) -> None:
    app = App("publisher", broker=url)
    try:
        for start in range(0, len(orders), 500):
            await asyncio.gather(*(app.publish("order.created", order) for order in orders[start : start + 500]))
    finally:
        await app.close()


def orders(count: int, customers: int) -> list[dict[str, object]]:
    return [
        {"id": f"o{index}", "customer": f"c{index % customers}", "number": index // customers} for index in range(count)
    ]


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "sqlite"])
def test_a_worker_killed_again_and_again_loses_nothing_and_keeps_the_order_of_a_key(
    tmp_path: Path, nats: Embedded, durable: bool
) -> None:
    store = f"sqlite:///{tmp_path}/ledger.db" if durable else None
    run = Run(tmp_path, nats.url, store=store, work=0.002)
    asyncio.run(publish(nats.url, orders(3000, 30)))
    for kill in range(1, 4):
        run.start()
        run.wait(600 * kill)
        run.stop(signal.SIGKILL)
    run.start()
    run.wait(3000)
    assert run.stop() == 0
    handled = run.handled()
    assert len({event[:2] for event in handled}) == 3000
    assert violations(handled, rewinds=True) == []


def test_a_drain_under_load_ends_with_0_and_the_successor_goes_on(tmp_path: Path, nats: Embedded) -> None:
    run = Run(tmp_path, nats.url, store=f"sqlite:///{tmp_path}/ledger.db", work=0.005)
    asyncio.run(publish(nats.url, orders(2000, 20)))
    run.start()
    run.wait(200)
    assert run.stop() == 0
    run.start()
    run.wait(2000)
    assert run.stop() == 0
    handled = run.handled()
    assert len(handled) == 2000
    assert violations(handled, rewinds=False) == []
    assert {attempt for _, _, attempt, _ in handled} == {1}


def test_a_killed_and_restarted_server_loses_nothing_and_reorders_nothing(tmp_path: Path, nats: Embedded) -> None:
    run = Run(tmp_path, nats.url, work=0.002)
    asyncio.run(publish(nats.url, orders(3000, 30)))
    run.start()
    run.wait(500)
    port = int(nats.url.rpartition(":")[2])
    nats.stop()
    with Embedded(tmp_path / "nats", port=port):
        run.wait(3000)
        assert run.stop() == 0
    handled = run.handled()
    assert len({event[:2] for event in handled}) == 3000
    assert violations(handled, rewinds=True) == []


def test_poison_is_dead_lettered_and_its_neighbours_flow(tmp_path: Path, nats: Embedded) -> None:
    run = Run(tmp_path, nats.url).start()
    poison: list[dict[str, object]] = [
        {"id": "p", "customer": "poison", "number": 0},
        {"id": "r", "customer": "rejected", "number": 0},
        {"id": "k", "customer": 7, "number": 0},
        {"wrong": "type"},
    ]
    asyncio.run(publish(nats.url, [*poison, *orders(100, 10)]))
    run.wait(100)
    listing = ""
    for _ in range(100):
        listing = subprocess.run(
            [sys.executable, "-m", "headrace", "dlq", "ls", "--app", "spine", "--json"],
            env=run.environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if len(listing.splitlines()) == 4:
            break
    assert len(listing.splitlines()) == 4, listing
    assert "always" in listing
    assert "rejected: never" in listing
    with urllib.request.urlopen(f"http://{run.admin()}/metrics") as answer:
        metrics = answer.read().decode()
    assert re.search(r'headrace_events_processed_total\{handler="bill",outcome="dead"\} 4', metrics)
    with urllib.request.urlopen(f"http://{run.admin()}/readyz") as answer:
        assert answer.status == 200
    assert run.stop() == 0


@pytest.mark.parametrize(
    ("broker", "code", "words"),
    [
        ("carrier-pigeon://x", 2, "unknown URL scheme"),
        ("nats://127.0.0.1:1", 4, "127.0.0.1:1"),
    ],
)
def test_bad_configuration_ends_with_its_exit_code_and_one_sentence(
    tmp_path: Path, broker: str, code: int, words: str
) -> None:
    run = Run(tmp_path, broker, HEADRACE_READY_WITHIN="1").start()
    assert run.process is not None
    assert run.process.wait(30) == code
    text = run.errors.read_text()
    assert words in text
    assert "Traceback" not in text


def test_a_port_in_use_ends_with_2(tmp_path: Path, nats: Embedded) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        run = Run(tmp_path, nats.url, HEADRACE_ADMIN=f"127.0.0.1:{taken.getsockname()[1]}").start()
        assert run.process is not None
        assert run.process.wait(30) == 2
    assert "in use" in run.errors.read_text()


def test_the_demos_sums_agree(tmp_path: Path) -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "headrace", "demo", "--orders", "800"], cwd=tmp_path, capture_output=True, text=True
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "all accounted for" in demo.stdout
