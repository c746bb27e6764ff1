"""``headrace run`` killed again and again on a real nats-server: nothing lost, order per key kept."""

from pathlib import Path

import pytest

from tests.servers.nats import Nats
from tests.spine.process import Run, orders, publish, verdict


def killed(run: Run, *, events: int, customers: int, kills: int) -> None:
    # All of it is there before the first worker, so that each is killed at work and none while it waits for the publisher.
    publish(run, orders(events, customers))
    run.start()
    for kill in range(kills):
        run.until_handled((kill + 1) * events // (kills + 1), within=300)
        run.kill()
        run.start()
    run.until_handled(events, within=300)
    assert run.stop() == 0


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "sqlite"])
@pytest.mark.parametrize(
    ("events", "customers", "kills"),
    [
        pytest.param(3000, 30, 3, id="short"),
        pytest.param(50_000, 200, 10, id="long", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
def test_a_worker_killed_again_and_again_loses_nothing_and_keeps_the_order_of_a_key(
    tmp_path: Path, nats: Nats, durable: bool, events: int, customers: int, kills: int
) -> None:
    store = f"sqlite:///{tmp_path}/ledger.db" if durable else None
    # Slow enough that no worker is done with its share before its kill.
    run = Run(tmp_path, nats.url, WORK="0.02", HEADRACE_STORE=store)
    try:
        killed(run, events=events, customers=customers, kills=kills)
        found = verdict(run)
    finally:
        run.close()
    print(f"{kills} kills: {found}")
    assert found.ok, found
    assert found.counts["dead"] == 0
    assert found.counts["processes"] > kills // 2, f"the kills met no work: {found}"
    if durable:
        # Finished ones are recognised: only what ran when a worker died, or was not marked yet, runs again.
        assert found.repeats <= kills * 64 * 5, found
