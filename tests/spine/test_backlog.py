"""A backlog far larger than memory may hold: resident memory is bounded by the prefetch."""

import asyncio
import json
from pathlib import Path

import nats as client
import pytest

from tests.servers.nats import Nats
from tests.spine.conftest import Start
from tests.spine.process import Run


async def _fill(url: str, count: int, keys: int) -> None:
    """Publish without waiting for each confirmation, and check the stream's count at the end."""
    connection = await client.connect(url, pending_size=64 << 20)
    try:
        stream = connection.jetstream()
        await stream.add_stream(name="order", subjects=["order", "order.>"])
        for n in range(count):
            await connection.publish(
                "order.created",
                json.dumps({"customer": f"c{n % keys}", "kind": ""}).encode(),
                headers={
                    "ce-specversion": "1.0",
                    "ce-id": f"b{n}",
                    "ce-source": "/tests",
                    "ce-type": "order.created",
                    "content-type": "application/json",
                },
            )
            if n % 5000 == 0:
                await connection.flush(60)
        await connection.flush(60)
        while (await stream.stream_info("order")).state.messages < count:
            await asyncio.sleep(0.05)
    finally:
        await connection.close()


def resident(run: Run) -> float:
    """MiB resident, of the worker alone."""
    pid = run.workers()[-1]
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


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
    asyncio.run(_fill(nats.url, backlog, 1000))
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
