"""``headrace run`` behind a bad connection: slow, narrow, cut every second. Nothing is lost, order is kept, nothing spins."""

import time
from collections.abc import Callable

import pytest

from tests.nats.processes import Steady, all_is_well, cpu_seconds, recovers
from tests.servers.nats import Nats
from tests.servers.wire import Wire
from tests.spine.conftest import Start
from tests.spine.conftest import start as start


@pytest.fixture
def nats(start_nats: Callable[..., Nats]) -> Nats:
    """The server behind the wire."""
    return start_nats()


@pytest.mark.parametrize(("latency", "bandwidth"), [(0.1, None), (0.0, 10_000.0)], ids=["100 ms", "10 KB a second"])
def test_a_slow_connection_loses_nothing_and_reorders_nothing(
    nats: Nats, start: Start, start_wire: Callable[[int], Wire], latency: float, bandwidth: float | None
) -> None:
    wire = start_wire(nats.port)
    run = start(f"nats://127.0.0.1:{wire.port}")
    run.until(run.ready, "not ready")
    wire.latency, wire.bandwidth = latency, bandwidth
    with Steady(nats.url, run, rounds=8) as publisher:
        recovers(run, "the connection became slow")
    run.until_handled(publisher.events)
    wire.heal()
    all_is_well(run, publisher.events)


@pytest.mark.parametrize(
    "seconds", [6, pytest.param(60, marks=pytest.mark.long)], ids=lambda seconds: f"{seconds} seconds"
)
def test_a_connection_cut_every_second_loses_nothing_and_does_not_spin(
    nats: Nats, start: Start, start_wire: Callable[[int], Wire], seconds: int
) -> None:
    wire = start_wire(nats.port)
    run = start(f"nats://127.0.0.1:{wire.port}")
    run.until(run.ready, "not ready")
    with Steady(nats.url, run, rounds=10 * seconds) as publisher:
        used = cpu_seconds(run)
        for _ in range(seconds):
            wire.reset()
            time.sleep(1)  # the fault itself
        used = cpu_seconds(run) - used
        assert run.metric("source_reconnects_total") >= seconds - 1
    print(f"{used:.2f} s of processor time in {seconds} s of cuts")
    all_is_well(run, publisher.events)
    assert used < 0.6 * seconds, "the process spins while its connection is cut"
