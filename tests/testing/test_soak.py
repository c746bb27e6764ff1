"""The soak: its verdict finds planted faults, its plan and its figure of memory are what they say, and a short one is clean."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from headrace.testing.history import Fact
from headrace.testing.soak.memory import Memory
from headrace.testing.soak.outstanding import Outstanding
from headrace.testing.soak.plan import BROKER_FAULTS, FAULTS, Plan
from headrace.testing.soak.report import judge
from tests.cli.command import Command

SOUND = [
    Fact("published", "o0", "ann"),
    Fact("published", "o1", "ann"),
    Fact("published", "o2", "ann"),
    Fact("published", "j0"),
    Fact("published", "j1"),
    Fact("handled", "o0", "ann", "bill", "p"),
    Fact("handled", "o2", "ann", "bill", "p"),
    Fact("handled", "j1", None, "work", "p"),
    Fact("handled", "j0", None, "work", "p"),
    Fact("handled", "o2", None, "file", "q"),
    Fact("handled", "o0", None, "file", "q"),
]
KINDS = {"o1": "poison", "j1": "fixable"}
LETTERS = [
    {"handler": "bill", "event_id": "o1", "reason": "ValueError"},
    {"handler": "work", "event_id": "j1", "reason": "Reject"},
]


def test_a_sound_history_is_clean_and_counted() -> None:
    figures, broken = judge(SOUND, LETTERS, KINDS)
    assert broken == []
    assert figures["bill"] == {"published": 3, "handled": 2, "dead": 1, "repeats": 0, "processes": 1}
    assert figures["file"]["published"] == 2


@pytest.mark.parametrize(
    ("left_out", "found"),
    [
        (Fact("handled", "j0", None, "work", "p"), "work: j0 was lost"),
        (Fact("handled", "o0", None, "file", "q"), "file: o0 was lost"),
        (Fact("handled", "o0", "ann", "bill", "p"), "bill: o0 was lost"),
        (Fact("handled", "j1", None, "work", "p"), "work: j1 was not handled after its replay"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_missing_is_found(left_out: Fact, found: str) -> None:
    broken = judge([fact for fact in SOUND if fact != left_out], LETTERS, KINDS)[1]
    assert found in broken


def test_a_key_that_skips_is_found_and_one_that_goes_back_is_not() -> None:
    first, last = SOUND.index(Fact("handled", "o0", "ann", "bill", "p")), len(SOUND)
    skipped = [*SOUND[:first], *SOUND[first + 1 : last], SOUND[first]]
    assert any("o2 was handled before o0" in sentence for sentence in judge(skipped, LETTERS, KINDS)[1])
    assert judge([*SOUND, SOUND[first]], LETTERS, KINDS)[1] == []


def test_a_sound_event_among_the_dead_and_an_ill_one_that_is_not_there_are_found() -> None:
    wronged = {"handler": "work", "event_id": "j0", "reason": "TimeoutError"}
    assert judge(SOUND, [*LETTERS, wronged], KINDS)[1] == [
        "work: j0 is dead-lettered, though nothing is wrong with it: TimeoutError"
    ]
    assert "work: j1 (fixable) has no dead letter" in judge(SOUND, LETTERS[:1], KINDS)[1]


def test_a_seed_draws_the_same_faults_and_every_kind_before_one_comes_again() -> None:
    kinds = {**FAULTS, **BROKER_FAULTS}
    plans = [Plan(5, 1800, kinds) for _ in range(2)]
    first, second = ([plan.next() for _ in range(3 * len(kinds))] for plan in plans)
    assert first == second
    for start in range(0, len(first), len(kinds)):
        assert {step.fault for step in first[start : start + len(kinds)]} == set(kinds)
    assert first != [Plan(6, 1800, kinds).next() for _ in first]


def test_memory_that_grows_is_told_from_memory_that_wavers(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = random.Random(1)

    def slope(growth: float) -> float | None:
        memory = Memory()
        for at in range(0, 1800, 5):
            held = 60 + growth * at / 3600 + noise.uniform(-1, 1) + (10 if at < 300 else 0)
            monkeypatch.setattr("headrace.testing.soak.memory.resident", lambda pid, held=held: held)
            memory.sample("a", 1, at)
        return memory.growth().slope

    steady, growing = slope(0), slope(30)
    assert steady is not None
    assert growing is not None
    assert abs(steady) < 1
    assert 25 < growing < 35


def test_a_short_life_is_not_judged() -> None:
    memory = Memory()
    for at in range(0, 300, 5):
        memory.sample("a", 0, at)
    assert memory.growth().slope is None


def test_what_is_outstanding_is_read_from_the_end_of_the_history(tmp_path: Path) -> None:
    from headrace.testing.history import History

    history = History(tmp_path / "history", handler="work")
    seen = Outstanding(tmp_path / "history")
    history.published("a")
    history.handled("b")
    seen.read()
    assert seen.ids == {"a"}
    history.published("b")
    history.handled("a")
    seen.read()
    assert (seen.ids, seen.handled) == (set(), 2)
    history.close()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "minutes",
    [
        pytest.param("0.2", id="short"),
        pytest.param("30", id="long", marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
def test_a_soak_ends_clean_and_says_its_figures(tmp_path: Path, minutes: str) -> None:
    seed = os.environ.get("HEADRACE_SEED") or "11"
    process = Command(tmp_path).start("soak", "--minutes", minutes, "--seed", seed, "--json")
    out, errors = process.communicate()
    assert process.returncode == 0, out + errors[-3000:]
    (report,) = map(json.loads, out.splitlines())
    assert report["verdict"] == "clean"
    assert report["seed"] == int(seed)
    assert f"seed {seed}" in errors
    # How many faults fit in depends on how quickly the machine recovers from each.
    assert report["steps"]
    for figures in report["handlers"].values():
        assert figures["handled"] + figures["dead"] >= figures["published"] > 0


def test_an_interrupted_soak_ends_its_processes_and_says_that_it_was_cut_short(tmp_path: Path) -> None:
    process = Command(tmp_path).start("soak", "--minutes", "5", "--json", "--keep", "kept")
    kept = tmp_path / "kept"
    while not (kept / "history").exists() or "handled" not in (kept / "history").read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    pids = [int(path.read_text()) for path in kept.glob("*.pid")]
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors
    assert json.loads(out)["cut_short"] is True
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
