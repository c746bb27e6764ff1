"""A dependency that fails every call: the circuit breaker opens, nothing is dead-lettered, the flow goes on by itself.

The hour of outage runs in virtual time (tests/app/test_breaker.py); here the same on a real server and a real clock.
"""

import time
from pathlib import Path

import pytest

from tests.spine.conftest import Start
from tests.spine.process import publish, verdict

#: Seconds between two probes at most, by which the flow must have gone on.
PROBE = 5.0


@pytest.mark.parametrize(
    ("seconds", "events"),
    [
        pytest.param(3, 300, id="short"),
        pytest.param(60, 3000, id="long", marks=[pytest.mark.long, pytest.mark.timeout(400)]),
    ],
)
def test_an_outage_opens_the_breaker_dead_letters_nothing_and_ends_by_itself(
    tmp_path: Path, start: Start, seconds: float, events: int
) -> None:
    run = start(MEND=str(tmp_path / "mend"))
    publish(run, [(f"o{number}", f"c{number % 30}", "failing") for number in range(events)])
    run.until(lambda: "circuit breaker is open" in run.get("/readyz")[1], "the breaker did not open")
    assert run.metric("handler_paused", handler="bill") == 1
    assert run.ready(), "an outage of a dependency is no reason to restart or to take the app out of service"
    time.sleep(seconds)  # the length of the outage, in which nothing may happen
    assert not run.facts()[events:]
    assert run.letters() == []
    tried = run.metric("handler_exceptions_total", handler="bill")
    (tmp_path / "mend").touch()
    mended = time.monotonic()
    run.until_handled(1)
    resumed = time.monotonic() - mended
    run.until_handled(events)
    print(f"outage of {seconds:g} s: {tried:g} attempts, the flow went on {resumed:.1f} s after its end")
    # A probe every five seconds at most; what is added is a loaded machine.
    assert resumed < 2 * PROBE
    assert run.metric("handler_paused", handler="bill") == 0
    assert run.stop() == 0
    found = verdict(run)
    assert found.ok, found
    assert found.counts["dead"] == 0
