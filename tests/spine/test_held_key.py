"""A key that fails for long: only its lane waits, and health names it when the parked budget is used up."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from tests.spine.conftest import Start
from tests.spine.process import Counting, Publisher, Run, orders, publish, verdict


def failing(count: int, *, first: int = 0) -> list[tuple[str, str, str]]:
    return [(f"f{n}", "unlucky", "failing" if n == 0 else "") for n in range(first, first + count)]


def detail(run: Run) -> str:
    """What health says of the handler."""
    return str(json.loads(run.get("/readyz")[1])["handlers"]["bill"].get("detail", ""))


def test_a_failing_key_holds_its_own_lane_only_and_is_named_when_the_parked_budget_is_used_up(
    tmp_path: Path, start: Start
) -> None:
    run = start(HEADRACE_PARKED="500", ATTEMPTS="100000")
    publish(run, failing(100) + orders(3000, 30))
    run.until_handled(3000)
    assert not {id for id in run.handled() if id.startswith("f")}
    assert run.ready()
    assert "unlucky" not in detail(run)
    publish(run, failing(900, first=100))
    run.until(lambda: "unlucky" in detail(run), "health does not name the key")
    assert run.metric("events_processed_total", handler="bill", outcome="dead") == 0
    (tmp_path / "mend").touch()
    run.until_handled(4000)
    run.until(lambda: not detail(run), "health still complains")
    assert run.stop() == 0
    found = verdict(run)
    assert found.ok, found
    assert (found.repeats, found.counts["dead"]) == (0, 0), found


async def _paced(run: Run, rate: int, seconds: int) -> list[tuple[int, int]]:
    """Publish at a rate; every second, how many were published and handled."""
    counting = Counting(run.history)
    seen = []
    async with Publisher(run.environment["HEADRACE_BROKER"], run.history) as publisher:
        begun = time.monotonic()
        for second in range(seconds):
            await publisher.orders(orders(rate, 40, first=second * rate))
            await asyncio.sleep(max(0.0, begun + second + 1 - time.monotonic()))
            seen.append(((second + 1) * rate, counting.count()))
    return seen


@pytest.mark.long
@pytest.mark.timeout(300)
def test_others_keep_their_rate_while_a_key_fails_for_30_seconds(tmp_path: Path, start: Start) -> None:
    run = start(ATTEMPTS="100000")
    publish(run, failing(1000))
    run.until(run.ready, "not ready")
    seen = asyncio.run(_paced(run, 500, 30))
    shares = [handled / published for published, handled in seen]
    print(f"share of what had arrived, second by second: from {min(shares):.3f} to {max(shares):.3f}")
    assert min(shares[2:]) >= 0.95, shares
    (tmp_path / "mend").touch()
    run.until_handled(16_000)
    assert run.stop() == 0
    found = verdict(run)
    assert found.ok, found
    assert found.counts["dead"] == 0, found
