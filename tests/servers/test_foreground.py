"""``python -m tests.servers NAME``: one line of JSON when the server is ready, nothing left behind after SIGTERM."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.servers.catalog import NAMES, server_class
from tests.servers.process import Unavailable

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    try:
        server_class(request.param).fetch()
    except Unavailable as reason:
        pytest.skip(str(reason))
    return str(request.param)


def run(*arguments: str, **options: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.servers", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found[1:]


def test_a_server_prints_its_address_and_ends_with_its_children(name: str) -> None:
    process = run(name)
    assert process.stdout is not None
    described = json.loads(process.stdout.readline())
    assert described["name"] == name
    assert set(described) == {"name", "url"} | ({"kubeconfig"} if name == "kubernetes" else set())
    address = urlsplit(described["url"].split(",")[0])
    with socket.create_connection((address.hostname, address.port), timeout=5):
        pass
    children = descendants(process.pid)
    assert children

    process.send_signal(signal.SIGTERM)

    rest, progress = process.communicate(timeout=5)
    assert process.returncode == 0
    assert rest == ""
    assert [child for child in children if Path(f"/proc/{child}").exists()] == []
    data = re.search(r"data in (\S+)", progress)
    assert data is not None
    assert not Path(data[1]).exists()


def test_a_server_ends_when_its_starter_is_killed() -> None:
    process = run("redis")
    assert process.stdout is not None
    port = urlsplit(json.loads(process.stdout.readline())["url"]).port
    with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
        process.kill()
        process.wait()
        # The connection ends when the server does.
        link.settimeout(5)
        assert link.recv(1) == b""


def test_an_unknown_name_is_a_usage_error() -> None:
    process = run("abacus")
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 2
    assert "no server abacus; there are nats" in errors
