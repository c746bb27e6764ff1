"""Three replicas of one app, killed, stopped and continued, and drained in turn: nothing lost, order per key kept."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.servers.nats import Nats
from tests.spine.conftest import Start
from tests.spine.process import Counting, Publisher, Run, orders, publish_jobs, skips, verdict

#: Deliveries that a handler of the default concurrency holds at most: 64 running and 256 prefetched.
HELD = 320
#: The long form's order of faults.
SEED = int(os.environ.get("HEADRACE_SEED", "1"))
LONG = [pytest.mark.long, pytest.mark.timeout(3600)]


def handlers(run: Run) -> list[int]:
    """The process of each handled event, in order."""
    return [int(fact.process.partition(".")[0]) for fact in run.facts() if fact.what == "handled"]


def owner(replicas: list[Run]) -> Run:
    """The replica that handled last."""
    last = handlers(replicas[0])[-1]
    return next(replica for replica in replicas if not replica.ended and last in replica.pids())


def took_over(replicas: list[Run], old: set[int], what: str) -> None:
    """Wait until another process handles events, and print how long it took."""
    begun = time.monotonic()
    live = next(replica for replica in replicas if not replica.ended)
    live.until(lambda: handlers(live)[-1] not in old, f"nobody took over after {what}")
    print(f"{what}: the next owner handled its first event after {time.monotonic() - begun:.2f} s")


def faults(replicas: list[Run], events: int, steps: list[str], beyond: float) -> None:
    """Kill, stop (for ``beyond`` seconds after the take-over) and continue, and drain the owner, as the steps say, each some
    events after the one before."""
    counting = Counting(replicas[0].history)
    for number, step in enumerate(steps):
        any_live = next(replica for replica in replicas if not replica.ended)
        wanted = (number + 1) * events // (len(steps) + 2)
        any_live.until(lambda wanted=wanted: counting.count() >= wanted, f"not {wanted} events handled", within=300)
        old = owner(replicas)
        pids = set(old.pids())
        if step == "killed":
            old.kill()
            took_over(replicas, pids, step)
            old.start()
        elif step == "drained":
            assert old.stop() == 0
            took_over(replicas, pids, step)
            old.start()
        else:
            stopped_and_continued(replicas, old, pids, beyond)


def stopped_and_continued(replicas: list[Run], old: Run, pids: set[int], beyond: float) -> None:
    """Stop the owner, let another take over, continue it; count what it finished beside its successor: the attempts that
    were running, and what began until it heard."""
    before = old.text().count("are given up")
    old.signal_all(signal.SIGSTOP)
    until_then = len(handlers(old))
    try:
        took_over([replica for replica in replicas if replica is not old], pids, "stopped")
        time.sleep(beyond)  # past the time to acknowledge
    finally:
        old.signal_all(signal.SIGCONT)
    old.until(lambda: old.text().count("are given up") > before, "the old owner does not hear of its successor")
    overlap = sum(process in pids for process in handlers(old)[until_then:])
    print(f"stopped and continued: {overlap} events finished beside the successor")
    assert overlap <= HELD


@pytest.mark.parametrize(
    ("events", "rounds", "ack_wait", "work", "seed"),
    [
        pytest.param(10_000, 1, 2, 0.05, 1, id="short"),
        # So much work that the events outlast every stop: three of half a minute here.
        pytest.param(100_000, 3, 30, 0.15, SEED, id="long", marks=LONG),
    ],
)
def test_replicas_hand_over_keyed_events_without_losing_or_skipping_any(
    tmp_path: Path, nats: Nats, start: Start, events: int, rounds: int, ack_wait: int, work: float, seed: int
) -> None:
    async def load() -> None:
        async with Publisher(nats.url, tmp_path / "history") as publisher:
            await publisher.orders(orders(events, 50))

    asyncio.run(load())
    steps = ["killed", "stopped", "drained"] * rounds
    random.Random(seed).shuffle(steps)
    print(f"seed {seed}: {', '.join(steps)}")
    options = {"app": "stream", "WORK": str(work), "ACK_WAIT": str(ack_wait)}
    replicas = [start(name=f"replica{number}", **options) for number in range(3)]
    for replica in replicas:
        # A stand-by is ready: it could take over now.
        replica.until(replica.ready, "not ready")
    faults(replicas, events, steps, ack_wait + 1)
    for replica in replicas:
        replica.until(replica.ready, "not ready again")
    replicas[0].until_handled(events, within=1200)
    codes = [replica.stop() for replica in replicas]
    found = verdict(replicas[0])
    print(f"keyed: {found}")
    assert codes == [0, 0, 0], [replica.text()[-2000:] for replica in replicas]
    assert not found.lost, found
    assert not skips(found), found
    assert found.counts["dead"] == 0


@pytest.mark.parametrize(
    ("events", "rounds", "beyond"),
    [
        pytest.param(4000, 1, 3.0, id="short"),
        pytest.param(100_000, 3, 35.0, id="long", marks=LONG),
    ],
)
def test_replicas_share_unkeyed_events_and_lose_none(start: Start, events: int, rounds: int, beyond: float) -> None:
    ack_wait = "2" if rounds == 1 else "30"
    replicas = [start(app="jobs", name=f"replica{number}", WORK="0.2", ACK_WAIT=ack_wait) for number in range(3)]
    for replica in replicas:
        replica.until(replica.ready, "not ready")
    publish_jobs(replicas[0], [f"j{number}" for number in range(events)])
    replicas[0].until_handled(events // 3, within=600)
    shares = Counter(handlers(replicas[0])[: events // 3])
    print(f"shares of the first third: {sorted(shares.values())}")
    assert len(shares) == 3, shares
    assert min(shares.values()) >= events // 3 / 6, shares
    killed, stopped, drained = replicas
    for _ in range(rounds):
        killed.kill()
        killed.start()
        stopped.signal_all(signal.SIGSTOP)
        time.sleep(beyond)  # past the time to acknowledge
        stopped.signal_all(signal.SIGCONT)
        assert drained.stop() == 0
        drained.start()
        for replica in replicas:
            replica.until(replica.ready, "not ready again")
    drained.until_handled(events, within=1200)
    codes = [replica.stop() for replica in replicas]
    found = verdict(replicas[0])
    print(f"unkeyed: {found}")
    assert codes == [0, 0, 0], [replica.text()[-2000:] for replica in replicas]
    assert found.ok, found
    assert found.counts["dead"] == 0
