"""``headrace doctor`` on real servers: what loses data is said, with its remedy."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import Command, Done
from tests.servers.kafka import Kafka
from tests.servers.nats import Nats, NatsCluster
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis


def said(done: Done, level: str, about: str = "") -> str:
    """The findings of a level, in one text."""
    rows = [row for row in done.objects if row["level"] == level and about in ("", row["about"])]
    return "\n".join(row["text"] for row in rows)


def test_a_nats_server_that_syncs_now_and_then_is_warned_about(tmp_path: Path, nats_server: Nats) -> None:
    done = Command(tmp_path, HEADRACE_BROKER=nats_server.url)("doctor", "--json")
    assert done.code == 0, done.out
    assert "syncs every 2 minutes unless configured" in said(done, "warning", "broker")
    assert "HEADRACE_NATS_STREAM_REPLICAS=3" in said(done, "warning", "broker")
    assert "nats-server 2." in said(done, "info", "broker")


@pytest.mark.parametrize(
    ("interval", "level", "words"),
    [
        ("always", "info", "syncs every write before it is confirmed"),
        ("10s", "warning", "syncs every 10 s"),
    ],
)
def test_the_monitoring_endpoint_says_how_a_server_syncs(
    tmp_path: Path, start_nats: Callable[..., Nats], interval: str, level: str, words: str
) -> None:
    server = start_nats(sync_interval=interval)
    variables = {"HEADRACE_BROKER": server.url, "HEADRACE_NATS_MONITOR": f"http://127.0.0.1:{server.ports[1]}"}
    done = Command(tmp_path, **variables)("doctor", "--json")
    assert done.code == 0, done.out
    assert words in said(done, level, "broker")
    assert "unless configured" not in done.out


def test_single_copies_in_a_cluster_are_warned_about(
    tmp_path: Path, start_nats_cluster: Callable[..., NatsCluster]
) -> None:
    cluster = start_nats_cluster()
    command = Command(tmp_path, HEADRACE_BROKER=cluster.url)
    assert command("send", "order.created", "-d", "{}").code == 0
    from tests.cli.letters import make, plant

    plant("shop", [make("shop", 1)], HEADRACE_BROKER=cluster.url)
    (tmp_path / "shop.py").write_text(
        "from headrace import App\napp = App('shop')\n@app.on('order.created')\nasync def bill(order: dict) -> None: ...\n"
    )
    warned = said(command("doctor", "shop.py", "--json"), "warning", "broker")
    assert "streams that the app creates have one copy" in warned
    assert (
        "stream headrace_dlq_shop has one copy in a cluster: nats stream edit headrace_dlq_shop --replicas 3" in warned
    )
    assert "stream order has one replica in a cluster" in warned


def test_redis_that_forgets_or_evicts_is_warned_about(tmp_path: Path, start_redis: Callable[..., Redis]) -> None:
    server = start_redis()
    command = Command(tmp_path, HEADRACE_STORE=server.url)
    sound = command("doctor", "--json")
    assert (sound.code, said(sound, "warning", "store")) == (0, ""), sound.out
    with socket.create_connection(("127.0.0.1", server.ports[0])) as link:
        for setting in ("appendonly no", "maxmemory 100mb", "maxmemory-policy allkeys-lru"):
            link.sendall(f"CONFIG SET {setting}\r\n".encode())
            assert link.recv(64) == b"+OK\r\n"
    warned = said(command("doctor", "--json"), "warning", "store")
    assert "set appendonly yes" in warned
    assert "maxmemory-policy is allkeys-lru" in warned


def test_postgres_that_forgets_what_it_committed_is_an_error(
    tmp_path: Path, start_postgres: Callable[..., Postgres]
) -> None:
    safe = Command(tmp_path)("doctor", "--json", "--store", start_postgres(durable=True).url)
    assert safe.code == 0, safe.out
    assert said(safe, "warning", "store") == ""
    unsafe = Command(tmp_path)(
        "doctor",
        "--json",
        "--store",
        start_postgres(settings={"synchronous_commit": "off", "max_connections": "30"}).url,
    )
    assert unsafe.code == 1
    assert "fsync is off" in said(unsafe, "error")
    assert "synchronous_commit is off" in said(unsafe, "error")
    assert "of 30 connections are in use" in said(unsafe, "warning")


def test_kafka_topics_with_one_copy_are_warned_about(tmp_path: Path, kafka_server: Kafka) -> None:
    (tmp_path / "shop.py").write_text(
        "from headrace import App\napp = App('shop')\n@app.on('doctored')\nasync def bill(order: dict) -> None: ...\n"
    )
    command = Command(tmp_path, HEADRACE_BROKER=kafka_server.url)

    def run(*arguments: str) -> Done:
        # In processes of their own: a crash of the client library is one of the command.
        process = command.start(*arguments)
        out, errors = process.communicate()
        return Done(process.returncode, out, errors)

    assert run("send", "doctored", "-d", "{}").code == 0
    done = run("doctor", "shop.py", "--json")
    end = time.monotonic() + 60
    while done.code == 1 and time.monotonic() < end:
        # A server that has just started is still choosing who answers for groups, and doctor says that it does not answer.
        assert "does not answer" in said(done, "error", "broker")
        done = run("doctor", "shop.py", "--json")
    assert done.code == 0, done.out + done.err
    assert "topic doctored has one replica" in said(done, "warning", "broker")


def test_a_file_that_is_no_database_and_a_disk_folder_that_is_missing_are_told(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_bytes(b"this is no database, but a file with some text in it" * 20)
    done = Command(tmp_path)("doctor", "--json", "--store", "sqlite:///notes.db")
    assert done.code == 1
    assert "cannot be read as a SQLite file" in said(done, "error", "store")
    before = sorted(tmp_path.iterdir())
    assert Command(tmp_path)("doctor", "--store", "sqlite:///new/deep/ledger.db").code == 0
    assert sorted(tmp_path.iterdir()) == before, "it creates nothing"


@pytest.mark.parametrize(
    "option",
    [
        "--broker=nats://127.0.0.1:{port}",
        "--store=redis://127.0.0.1:{port}/0",
        "--store=postgresql://postgres@127.0.0.1:{port}/postgres",
    ],
)
def test_a_server_that_does_not_answer_is_exit_code_4(tmp_path: Path, option: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        done = Command(tmp_path, HEADRACE_READY_WITHIN="1")("doctor", "--json", option.format(port=port))
    assert done.code == 4, done.out
    assert str(port) in said(done, "error")
    assert "Traceback" not in done.err


def test_misspelt_and_dangerous_variables_are_named(tmp_path: Path) -> None:
    command = Command(tmp_path, HEADRACE_STROE="sqlite:///x.db", HEADRACE_DRAIN="60", HEADRACE_FAIL_POINT="claimed:1")
    done = command("doctor", "--json")
    assert done.code == 1
    assert "HEADRACE_STROE is no setting and is ignored; is HEADRACE_STORE meant?" in said(done, "warning", "settings")
    assert "terminationGracePeriodSeconds to 65" in said(done, "warning", "settings")
    assert "HEADRACE_FAIL_POINT is set" in said(done, "error", "settings")


def test_a_broker_that_is_misconfigured_is_a_usage_error(tmp_path: Path) -> None:
    done = Command(tmp_path)("doctor", "--broker", "amqp://localhost")
    assert done.code == 2
    assert "unknown URL scheme 'amqp'" in done.err
