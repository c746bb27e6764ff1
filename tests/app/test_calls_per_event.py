"""The number of Python calls an event, which is stable where time is not (design: at most 45, goal 25)."""

from benchmarks.engine import calls_per_event


def test_the_engine_needs_at_most_25_python_calls_an_event() -> None:
    assert calls_per_event(5_000) <= 25
