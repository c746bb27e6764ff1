"""The engine through a thousand seeded worlds of faults, and the planted bugs that show what the worlds are worth."""

import os
import time
from pathlib import Path

import pytest

from headrace.testing.simulation import Bug, simulate
from tests.simulation.bugs import BUGS
from tests.simulation.seeds import found_by, run

#: Seeds that found a fault of the engine once, each for good.
FOUND = (
    3,
    18,
    28,
    211,
    310,
    662,
    776,
    1_000_018,
    1_000_185,
    1_001_779,
    1_001_877,
    1_003_523,
    2_009_908,
    3_016_659,
    4_004_645,
    5_000_318,
)


def test_a_thousand_seeds_keep_every_rule() -> None:
    faults, attempts = run(1, 1000)
    assert faults == []
    assert attempts > 20_000


@pytest.mark.parametrize("seed", FOUND)
def test_a_seed_that_found_a_fault_once_keeps_every_rule(seed: int) -> None:
    assert simulate(seed).fault == ""


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name.replace(" ", "-") for bug in BUGS])
def test_a_planted_bug_is_found(bug: Bug) -> None:
    # The same thousand worlds that the sound engine is held to.
    found = found_by(bug, limit=1000)
    assert found is not None, f"{bug.name}: not found in 1000 seeds"


@pytest.mark.parametrize("bug", [None, *BUGS[:2]], ids=["sound", "mark-before-handle", "ack-before-output"])
def test_a_seed_replays_exactly(bug: Bug | None) -> None:
    seed = 1 if bug is None else (found_by(bug, limit=200) or (1, ""))[0]
    first, second = simulate(seed, bug), simulate(seed, bug)
    assert (first.fault, first.steps, first.seconds) == (second.fault, second.steps, second.seconds)
    assert first.steps > 0


@pytest.mark.long
def test_half_an_hour_of_seeds_keeps_every_rule(tmp_path: Path) -> None:
    """Begins at HEADRACE_SEED (1,000,000) and goes on for HEADRACE_MINUTES (30); it says where to resume."""
    seed = begin = int(os.environ.get("HEADRACE_SEED", "1000000"))
    end = time.monotonic() + 60 * float(os.environ.get("HEADRACE_MINUTES", "30"))
    attempts = 0
    while time.monotonic() < end:
        faults, steps = run(seed, 1000)
        assert faults == [], f"resume with HEADRACE_SEED={seed}"
        seed += 1000
        attempts += steps
    record = Path(os.environ.get("HEADRACE_RECORD", str(tmp_path / "simulation.txt")))
    record.write_text(f"seeds {begin} to {seed - 1}: {seed - begin} seeds, {attempts} attempts, no rule broken\n")
