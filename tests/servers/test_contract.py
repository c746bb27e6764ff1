"""What every server promises to the tests that break it."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import ports
from tests.servers.cache import provide
from tests.servers.nats import Nats, NatsCluster
from tests.servers.postgres import Postgres
from tests.servers.process import Child, ServerError, Unavailable
from tests.servers.redis import Redis
from tests.servers.versions import ETCD, KUBERNETES


def ask(redis: Redis, command: str) -> str:
    with socket.create_connection(("127.0.0.1", redis.ports[0]), timeout=5) as link:
        link.sendall(command.encode() + b"\r\n")
        return link.recv(1000).decode()


def test_a_killed_server_comes_back_with_its_port_and_data(start_redis: Callable[..., Redis]) -> None:
    redis = start_redis()
    port = redis.ports[0]
    ask(redis, "SET mill wheel")
    redis.kill()
    assert not redis.alive
    redis.start()
    assert redis.ports[0] == port
    assert ask(redis, "GET mill").splitlines() == ["$5", "wheel"]


def test_a_paused_server_keeps_its_connections_and_answers_after_it_is_resumed(
    start_redis: Callable[..., Redis],
) -> None:
    redis = start_redis()
    with socket.create_connection(("127.0.0.1", redis.ports[0]), timeout=5) as link:
        redis.pause()
        link.sendall(b"PING\r\n")
        link.settimeout(0.2)
        with pytest.raises(TimeoutError):
            link.recv(10)
        redis.resume()
        link.settimeout(5)
        assert link.recv(10) == b"+PONG\r\n"


def test_a_killed_postgres_leaves_no_process_that_bars_its_return(start_postgres: Callable[..., Postgres]) -> None:
    postgres = start_postgres(durable=True)
    with socket.create_connection(("127.0.0.1", postgres.ports[0]), timeout=5):
        postgres.kill()
    postgres.start()
    assert postgres.alive


def test_a_stopped_server_removes_its_folder(start_redis: Callable[..., Redis]) -> None:
    redis = start_redis()
    assert redis.folder.exists()
    redis.close()
    assert not redis.folder.exists()


def test_a_port_that_was_taken_meanwhile_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        offered = iter([[taken.getsockname()[1], ports.free_ports(1)[0]], ports.free_ports(2)])
        monkeypatch.setattr("tests.servers.server.free_ports", lambda count: next(offered))
        with Nats(folder=tmp_path) as nats:
            assert nats.port != taken.getsockname()[1]


def test_the_port_of_a_killed_server_is_given_to_no_other_run() -> None:
    (port,) = ports.free_ports(1)
    asked = "import sys; from tests.servers import ports; sys.exit(not ports._given.take(int(sys.argv[1])))"
    another_run = [sys.executable, "-c", asked]
    assert subprocess.run([*another_run, str(port)], check=False).returncode == 1
    assert subprocess.run([*another_run, "1"], check=False).returncode == 0


def test_a_server_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"ended with 1 before it was ready(.|\n)*unknown field"):
        Nats(folder=tmp_path, extra="no_such_setting: 1").start()


def test_a_child_that_was_never_started_has_no_pid(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="was not started"):
        _ = Child("nothing", ["true"], log=tmp_path / "log").pid


def test_a_failed_making_leaves_nothing_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_SERVERS_CACHE", str(tmp_path))

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise Unavailable("no network")

    with pytest.raises(Unavailable):
        provide("thing-1", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["thing-1.lock"]
    made = provide("thing-1", lambda folder: (folder / "whole").touch())
    assert (made / "whole").exists()


def test_three_nodes_replace_a_killed_leader(start_nats_cluster: Callable[..., NatsCluster]) -> None:
    cluster = start_nats_cluster()
    leader = cluster.monitor(0, "jsz")["meta_cluster"]["leader"]
    node = int(leader.removeprefix("node"))
    cluster.kill_node(node)
    assert [child.alive for child in cluster.children].count(True) == 2
    cluster.start_node(node)
    cluster.settled()


def test_the_go_module_builds_the_version_that_is_named() -> None:
    module = (Path(__file__).parent / "kubernetes" / "go.mod").read_text()
    assert f"k8s.io/kubernetes v{KUBERNETES}\n" in module
    assert f"go.etcd.io/etcd/server/v3 v{ETCD}\n" in module
