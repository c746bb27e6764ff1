"""The nats-server killed, paused or cut off while events flow: nothing lost, order per key kept, recovery time printed."""

import re
import time
from collections.abc import Callable

import pytest

from tests.servers.nats import Nats
from tests.servers.wire import Wire
from tests.spine.conftest import Start
from tests.spine.process import Counting, Run, disorder, orders, verdict

EVENTS = 3000
#: What a process can hold at most: 64 running and 256 prefetched. Only events beyond them come from the server again.
HELD = 320


def recovers(run: Run, *, since: float) -> None:
    """Wait for an event that was fetched after a fault that ended at ``since``, and print how long it took."""
    counting = Counting(run.history)
    before = counting.count()
    run.until(lambda: counting.count() > before + HELD, "no event fetched after the fault")
    print(f"recovered {time.monotonic() - since:.2f} s after the fault was over")


def all_is_well(run: Run) -> None:
    run.until_handled(EVENTS, within=110)
    assert run.stop() == 0
    found = verdict(run)
    print(found)
    assert not found.lost, found
    assert not disorder(run, found), found
    assert found.counts["dead"] == 0, found


def test_a_killed_and_restarted_server_loses_nothing_and_reorders_nothing(nats: Nats, start: Start) -> None:
    run = start(WORK="0.02", backlog=orders(EVENTS, 30))
    run.until_handled(500)
    nats.kill()
    nats.restart()
    recovers(run, since=time.monotonic())
    all_is_well(run)


@pytest.mark.parametrize(
    "seconds", [3, pytest.param(20, marks=pytest.mark.long)], ids=lambda seconds: f"{seconds} seconds"
)
def test_a_paused_server_loses_nothing_and_reorders_nothing(nats: Nats, start: Start, seconds: float) -> None:
    run = start(WORK="0.02", backlog=orders(EVENTS, 30))
    run.until_handled(500)
    nats.pause()
    time.sleep(seconds)  # the fault itself
    nats.resume()
    recovers(run, since=time.monotonic())
    all_is_well(run)


@pytest.mark.parametrize("ending", ["reset", "close", "after some bytes", "half open"])
def test_a_connection_cut_under_load_loses_nothing_and_reorders_nothing(
    nats: Nats, start: Start, start_wire: Callable[[int], Wire], ending: str
) -> None:
    wire = start_wire(nats.port)
    run = start(f"nats://127.0.0.1:{wire.port}", WORK="0.02", backlog=orders(EVENTS, 30))
    run.until_handled(300)
    if ending == "reset":
        wire.reset()
    elif ending == "close":
        wire.cut()
    elif ending == "after some bytes":
        accepted = wire.accepted
        wire.cut_after(20_011, towards="client")
        wire.wait_for(lambda: wire.accepted > accepted, timeout=60)
        wire.heal()
    else:
        wire.freeze()
        time.sleep(5)  # the fault itself
        wire.heal()
    recovers(run, since=time.monotonic())
    all_is_well(run)


def test_readiness_tells_of_a_server_that_is_away_and_liveness_does_not(nats: Nats, start: Start) -> None:
    run = start()
    run.until(run.ready, "not ready")
    nats.kill()
    run.until(lambda: run.get("/readyz")[0] == 503, "still ready without its server")
    assert re.search(r"not connected", run.get("/readyz")[1])
    assert run.get("/livez")[0] == 200
    nats.restart()
    run.until(run.ready, "not ready again")
    assert run.stop() == 0
