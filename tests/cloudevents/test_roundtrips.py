"""Round trips of any event; `python -m tests.cloudevents.long_roundtrips --seed N` takes 10,000 examples."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace import Event
from tests.cloudevents.events import events
from tests.cloudevents.roundtrips import PATHS, check


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(event=events())
def test_an_equal_event_comes_back(path: str, event: Event) -> None:
    check(event, path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(event=events(), paths=st.lists(st.sampled_from(sorted(PATHS)), min_size=2, max_size=5))
def test_an_event_survives_any_row_of_hops(event: Event, paths: list[str]) -> None:
    back = event
    for path in paths:
        back = check(back, path)
    assert back == event
