"""``headrace run`` behind a bad connection, made by Toxiproxy: slow, narrow, half open, cut every second. Nothing is lost,
order is kept, nothing spins."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.nats.processes import Steady, all_is_well, cpu_seconds, recovers
from tests.servers.nats import Nats
from tests.servers.toxiproxy import Toxiproxy
from tests.spine.conftest import Start
from tests.spine.conftest import start as start

LONG = [pytest.mark.long, pytest.mark.timeout(1800)]
NAME = "nats"


@pytest.fixture
def nats(start_nats: Callable[..., Nats]) -> Nats:
    """The server behind the proxy."""
    return start_nats()


@pytest.fixture
def proxied(toxiproxy_server: Toxiproxy, nats: Nats) -> Iterator[str]:
    """The server's URL through the proxy."""
    port = toxiproxy_server.proxy(NAME, nats.port)
    yield f"nats://127.0.0.1:{port}"
    toxiproxy_server.remove(NAME)


TOXICS: dict[str, tuple[str, dict[str, int]]] = {
    "100 ms": ("latency", {"latency": 100, "jitter": 20}),
    "10 KB a second": ("bandwidth", {"rate": 10}),
    "half open": ("timeout", {"timeout": 0}),
}


def poison(toxiproxy: Toxiproxy, kind: str) -> None:
    toxic, attributes = TOXICS[kind]
    directions: Any = ("upstream", "downstream")
    for stream in directions:
        toxiproxy.poison(NAME, toxic, stream=stream, **attributes)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=LONG)], ids=lambda seconds: f"{seconds} s")
@pytest.mark.parametrize("kind", TOXICS)
def test_a_bad_connection_loses_nothing_and_reorders_nothing_and_does_not_spin(
    nats: Nats, proxied: str, toxiproxy_server: Toxiproxy, start: Start, kind: str, seconds: int
) -> None:
    run = start(proxied)
    run.until(run.ready, "not ready")
    with Steady(nats.url, run, rounds=8 * seconds, pace=0.25) as publisher:
        recovers(run, "the start")
        used = cpu_seconds(run)
        poison(toxiproxy_server, kind)
        time.sleep(seconds)  # the fault itself
        used = cpu_seconds(run) - used
        toxiproxy_server.cure(NAME)
        recovers(run, f"{seconds} s of {kind}", within=120)
    print(f"{kind}: {used:.2f} s of processor time in {seconds} s")
    all_is_well(run, publisher.events)
    assert used < 0.6 * seconds + 0.5, "the process spins while its connection is bad"


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=LONG)], ids=lambda seconds: f"{seconds} s")
def test_a_connection_cut_every_second_loses_nothing_and_does_not_spin(
    nats: Nats, proxied: str, toxiproxy_server: Toxiproxy, start: Start, seconds: int
) -> None:
    run = start(proxied)
    run.until(run.ready, "not ready")
    with Steady(nats.url, run, rounds=4 * seconds, pace=0.25) as publisher:
        recovers(run, "the start")
        used = cpu_seconds(run)
        for _ in range(seconds):
            toxiproxy_server.enable(NAME, enabled=False)
            toxiproxy_server.enable(NAME, enabled=True)
            time.sleep(1)  # the fault itself
        used = cpu_seconds(run) - used
    print(f"cut every second: {used:.2f} s of processor time in {seconds} s")
    all_is_well(run, publisher.events)
    assert run.text().count("NATS connection lost") >= seconds // 2
    assert used < 0.6 * seconds + 0.5, "the process spins while its connection is cut"
