"""The commands on a Kafka broker, from outside: the user's file of the design, the demo, tail, exit codes."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.cli.command import Command
from tests.kafka.harness import Harness
from tests.servers.apiserver import ApiServer
from tests.servers.kafka import Kafka
from tests.spine.process import Run

SHOP = Path(__file__).parents[2] / "examples" / "shop.py"
Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path, node: Kafka) -> Iterator[Start]:
    """Makes runs on the node; what still runs is killed afterwards."""
    runs: list[Run] = []

    def make(app: str | Path, **options: Any) -> Run:
        if isinstance(app, str):
            file = tmp_path / f"app{len(runs)}.py"
            file.write_text(app)
            app = file
        run = Run(tmp_path, node.url, app=app, name=f"run{len(runs)}", **options)
        runs.append(run)
        return run.start()

    yield make
    for run in runs:
        run.close()


def until(holds: Callable[[], object], otherwise: Callable[[], str], *, within: float = 90.0) -> None:
    end = time.monotonic() + within
    while not holds():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.1)


def test_the_demos_sums_agree(node: Kafka, tmp_path: Path) -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "headrace", "demo", "--broker", node.url, "--orders", "300"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "all accounted for" in demo.stdout


def test_the_users_file_of_the_design_runs_unchanged(
    start: Start, node: Kafka, tmp_path: Path, kubernetes_server: ApiServer
) -> None:
    run = start(SHOP, KUBECONFIG=kubernetes_server.description()["kubeconfig"])
    command = Command(tmp_path, HEADRACE_BROKER=node.url)
    run.until(run.ready, "not ready")
    tail = command.start("tail", "invoice.created", "--json", "-n", "3")
    try:
        number = 0

        def tailed() -> bool:
            # The tail begins at the end: send until it has seen what it was to see.
            nonlocal number
            number += 1
            order = json.dumps({"id": f"o{number}", "customer": "ada", "amount": 5})
            assert command("send", "order.created", "-d", order, "--key", "ada").code == 0
            return tail.poll() is not None

        until(tailed, run.text)
        assert tail.returncode == 0
        assert tail.stdout is not None
        invoices = [json.loads(line) for line in tail.stdout]
    finally:
        tail.kill()
        tail.wait()
    assert len(invoices) == 3
    assert {invoice["type"] for invoice in invoices} == {"invoice.created"}
    assert {invoice["source"] for invoice in invoices} == {"/shop/bill"}
    # Over HTTP, and on to the channel: this one is rejected.
    request = urllib.request.Request(
        f"http://{run.address('http')}/events",
        json.dumps({"id": "bad", "customer": "bob", "amount": -1}).encode(),
        {
            "ce-specversion": "1.0",
            "ce-id": "h1",
            "ce-source": "/web",
            "ce-type": "order.placed",
            "content-type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 204

    def dead() -> list[dict[str, Any]]:
        # The demo, whose app has the same name, may have left others on this node.
        letters = command("dlq", "ls", "--app", "shop", "--json").objects
        return [letter for letter in letters if letter["key"] == "bob"]

    until(dead, run.text)
    (letter,) = dead()
    assert letter["reason"] == "rejected: negative amount"
    assert letter["origin"]["topic"] == "order.created"
    assert letter["id"] in command("trace", letter["event_id"], "--app", "shop").out
    assert command("dlq", "drop", letter["id"], "--app", "shop", "--yes", "--reason", "test").code == 0
    assert dead() == []
    assert run.metric("rebalances_total", source="kafka:order.created") >= 1
    assert 0 <= run.metric("source_poll_age_seconds", source="kafka:order.created") < 60
    checked = command("check", str(SHOP), "--connect")
    assert "order holds for keys that the producer partitions by" in checked.out + checked.err
    assert run.stop() == 0, run.text()


def test_tail_shows_plain_records_and_passes_over_what_is_no_event(at: Harness, node: Kafka, tmp_path: Path) -> None:
    command = Command(tmp_path, HEADRACE_BROKER=node.url)
    tail = command.start("tail", at.topic, "--json", "-n", "2")
    producer: Any = Producer({"bootstrap.servers": node.bootstrap, "allow.auto.create.topics": False, "log_level": 0})
    try:
        # It waits for a topic that is not there yet.
        admin = at.broker.admin
        until(lambda: admin.create(at.topic, partitions=1, replicas=1, config={}) or True, str)

        def seen() -> bool:
            producer.produce(at.topic, b"no event", headers={"ce_specversion": "1.0", "ce_type": "no.id"})
            producer.produce(at.topic, b'{"n": 1}')
            producer.flush(10)
            return tail.poll() is not None

        until(seen, str)
        assert tail.stdout is not None
        assert tail.stderr is not None
        events = [json.loads(line) for line in tail.stdout]
        assert [event["data"] for event in events] == [{"n": 1}, {"n": 1}]
        assert {event["type"] for event in events} == {at.topic}
        assert "no event" in tail.stderr.read()
    finally:
        tail.kill()
        tail.wait()


APP = """
from headrace import App, Event
from headrace.kafka import Topic

app = App("{name}", store="memory://")


@app.on({source}{more})
async def {handler}(event: Event) -> None: ...
"""


def ends_with(run: Run, code: int, *words: str) -> None:
    assert run.exit_code(60) == code, run.text()
    for word in words:
        assert word in run.text()
    assert "Traceback" not in run.text()


def test_a_topic_that_differs_from_its_declaration_ends_with_2(start: Start, node: Kafka, app_name: str) -> None:
    at = Harness(node.url, app_name)
    at.broker.admin.create(at.topic, partitions=2, replicas=1, config={})
    source = f"Topic({at.topic!r}, partitions=5)"
    ends_with(
        start(APP.format(name=app_name, source=source, handler="bill", more="")), 2, "2 partitions, 5 are declared"
    )


def test_a_broker_that_is_not_there_ends_with_4(start: Start, app_name: str) -> None:
    text = APP.format(name=app_name, source="'x.y'", handler="bill", more="")
    run = start(text, HEADRACE_BROKER="kafka://127.0.0.1:1", HEADRACE_READY_WITHIN="1")
    ends_with(run, 4, "127.0.0.1:1")


def test_a_renamed_handler_ends_with_5(start: Start, node: Kafka, app_name: str) -> None:
    at = Harness(node.url, app_name)
    at.broker.admin.create(at.topic, partitions=2, replicas=1, config={})
    at.fill(3)
    first = start(APP.format(name=app_name, source=repr(at.topic), handler="old", more=""))
    first.until(first.ready, "not ready")
    first.until(lambda: first.metric("events_processed_total", handler="old", outcome="ok") == 3, "not handled")
    assert first.stop() == 0
    ends_with(
        start(APP.format(name=app_name, source=repr(at.topic), handler="new", more="")), 5, "name='old'", "delete"
    )


def test_two_processes_with_one_instance_id_end_with_5(start: Start, node: Kafka, app_name: str) -> None:
    at = Harness(node.url, app_name)
    source = f"Topic({at.topic!r}, instance='one')"
    text = APP.format(name=app_name, source=source, handler="bill", more="")
    first = start(text)
    first.until(lambda: first.metric("rebalances_total", source=f"kafka:{at.topic}") >= 1, "not joined")
    start(text)
    assert first.exit_code(60) == 5, first.text()
    assert "give each replica one of its own (HEADRACE_KAFKA_GROUP_INSTANCE_ID)" in first.text()
