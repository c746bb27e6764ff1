"""A backlog far larger than memory may hold: resident memory is bounded by the prefetch."""

import asyncio

import pytest

from tests.servers.nats import Nats
from tests.spine.conftest import Start
from tests.spine.filling import fill, resident


@pytest.mark.parametrize(
    "backlog",
    [
        pytest.param(100_000, id="a hundred thousand"),
        pytest.param(1_000_000, id="a million", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
def test_a_slow_handler_before_a_backlog_keeps_memory_bounded_by_the_prefetch(
    nats: Nats, start: Start, backlog: int
) -> None:
    events = (("order.created", f"b{n}", {"customer": f"c{n % 1000}", "kind": ""}) for n in range(backlog))
    asyncio.run(fill(nats.url, events))
    idle = start("nats://127.0.0.1:1", name="idle", HEADRACE_READY_WITHIN="60")
    idle.address()
    base = resident(idle)
    idle.kill()
    run = start(WORK="0.5")
    run.until_handled(128)
    figures = [resident(run)]
    run.until_handled(1000)
    figures.append(resident(run))
    print(
        f"backlog {backlog:,}: {base:.1f} MiB without a broker, {' then '.join(f'{f:.1f}' for f in figures)} MiB under it"
    )
    # 64 running and 256 prefetched events of some hundred bytes, buffers of the connection, and the code they need.
    assert max(figures) < base + 32
    assert run.metric("source_lag_events") > backlog * 0.9
    assert run.stop() == 0
