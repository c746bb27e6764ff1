"""A short, seeded run of the fuzzer; `python -m tests.cloudevents.long_fuzz --seed N` takes a million inputs."""

import pytest

from tests.cloudevents.fuzz import run


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_mutated_input_is_a_valid_event_or_refused(seed: int) -> None:
    outcomes = run(seed, 6_000, measured=False)
    # Both must happen often, or the mutations are too wild or too tame to say anything.
    assert outcomes["refused"] > 1_000
    assert outcomes["read"] > 500


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(101, 111))
def test_a_million_mutated_inputs_are_held_to_their_time_and_memory(seed: int) -> None:
    outcomes = run(seed, 100_000, measured=True)
    assert outcomes["read"] > 10_000
    assert outcomes["refused"] > 10_000
