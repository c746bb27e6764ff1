"""What waits for a handler: order per object, merged states, bounded memory. No server, no loop."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.kubernetes.backlog import Backlog
from headrace.kubernetes.store import Delta


def backlog(hold: set[str] | None = None) -> Backlog:
    return Backlog(hold=lambda delta: delta.key in (hold or set()))


def delta(verb: str, key: str, version: int, uid: str = "u", *, minor: bool = False, raw: bytes = b"{}") -> Delta:
    made = Delta(verb, key, uid, str(version), raw)  # type: ignore[arg-type]
    made.minor = minor
    return made


def drained(waiting: Backlog) -> list[tuple[str, str]]:
    taken = []
    while waiting.ready:
        one = waiting.take()
        taken.append((one.verb, one.version))
        waiting.done(one.key)
    return taken


def test_updates_that_nobody_took_become_one() -> None:
    waiting = backlog()
    for version in range(1, 6):
        waiting.add(delta("update", "k", version))
    assert drained(waiting) == [("update", "5")]


def test_an_add_that_nobody_took_shows_the_newest_state() -> None:
    waiting = backlog()
    waiting.add(delta("add", "k", 1))
    waiting.add(delta("update", "k", 2))
    assert drained(waiting) == [("add", "2")]


def test_a_delete_replaces_the_update_before_it_and_keeps_what_was_shown_before() -> None:
    waiting = backlog()
    changed = delta("update", "k", 2)
    changed.previous = b"shown"
    waiting.add(changed)
    waiting.add(delta("delete", "k", 3))
    taken = waiting.take()
    assert (taken.verb, taken.previous) == ("delete", b"shown")
    assert len(waiting) == 0


def test_deletes_and_namesakes_are_never_merged() -> None:
    waiting = backlog()
    waiting.add(delta("add", "k", 1, "u1"))
    waiting.add(delta("delete", "k", 2, "u1"))
    waiting.add(delta("add", "k", 3, "u2"))
    waiting.add(delta("update", "k", 4, "u2"))
    assert drained(waiting) == [("add", "1"), ("delete", "2"), ("add", "4")]


def test_the_next_change_of_an_object_waits_for_the_one_that_is_out() -> None:
    waiting = backlog()
    waiting.add(delta("add", "k", 1))
    out = waiting.take()
    waiting.add(delta("update", "k", 2))
    assert not waiting.ready
    waiting.done(out.key)
    assert drained(waiting) == [("update", "2")]


def test_what_is_put_back_is_first_in_line_and_merged_with_what_came_since() -> None:
    waiting = backlog()
    waiting.add(delta("update", "k", 1))
    out = waiting.take()
    waiting.add(delta("update", "k", 2))
    waiting.add(delta("delete", "k", 3))
    waiting.put_back(out)
    assert drained(waiting) == [("delete", "3")]


def test_an_insignificant_change_refreshes_what_waits_and_is_nothing_by_itself() -> None:
    waiting = backlog()
    waiting.add(delta("update", "k", 1, minor=True))
    assert len(waiting) == 0
    waiting.add(delta("update", "k", 2))
    waiting.add(delta("update", "k", 3, minor=True))
    assert drained(waiting) == [("update", "3")]


def test_a_resync_never_replaces_what_waits() -> None:
    waiting = backlog()
    waiting.add(delta("update", "k", 2, raw=b'{"new":1}'))
    again = delta("update", "k", 2, raw=b"{}")
    again.resync = True
    waiting.add(again)
    taken = waiting.take()
    assert (taken.raw, taken.resync) == (b'{"new":1}', False)


def test_what_is_held_waits_until_a_newer_state_comes() -> None:
    held = {"k"}
    waiting = Backlog(hold=lambda one: one.key in held and one.version == "1")
    waiting.add(delta("update", "k", 1))
    assert not waiting.ready
    waiting.add(delta("update", "k", 2))
    assert drained(waiting) == [("update", "2")]


def test_objects_that_come_and_go_untold_do_not_pile_up() -> None:
    waiting = backlog()
    waiting.add(delta("add", "k", 1, "u0"))
    waiting.take()  # out, and never finished
    for n in range(1, 1000):
        waiting.add(delta("delete", "k", 2 * n, f"u{n - 1}"))
        waiting.add(delta("add", "k", 2 * n + 1, f"u{n}"))
    assert len(waiting._queues["k"]) <= 10
    assert waiting._queues["k"][0].uid == "u0"  # the end of what was told is told
    assert waiting._queues["k"][-1].uid == "u999" or waiting._queues["k"][-1].verb == "add"


@given(st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_whatever_the_timing_a_handler_is_told_a_possible_history(seed: int) -> None:
    chance = random.Random(seed)
    waiting = backlog()
    living: dict[str, str] = {}
    told: dict[str, tuple[str, int]] = {}
    out: list[Delta] = []
    for version in range(1, 201):
        key = chance.choice("abc")
        step = chance.random()
        if step < 0.25 and key not in living:
            living[key] = f"u{version}"
            waiting.add(delta("add", key, version, living[key]))
        elif step < 0.4 and key in living:
            waiting.add(delta("delete", key, version, living.pop(key)))
        elif step < 0.6 and key in living:
            waiting.add(delta("update", key, version, living[key]))
        elif step < 0.8 and waiting.ready:
            out.append(waiting.take())
            assert sum(one.key == out[-1].key for one in out) == 1
        elif out:
            one = out.pop(chance.randrange(len(out)))
            if chance.random() < 0.2:
                waiting.put_back(one)
            else:
                _tell(told, one)
                waiting.done(one.key)
    for one in out:
        _tell(told, one)
        waiting.done(one.key)
    while waiting.ready:
        one = waiting.take()
        _tell(told, one)
        waiting.done(one.key)
    assert {key: uid for key, (uid, _) in told.items()} == living
    assert waiting.size == 0
    assert waiting._untold == 0


def _tell(told: dict[str, tuple[str, int]], one: Delta) -> None:
    known = told.get(one.key)
    if one.verb == "add":
        assert known is None
    else:
        assert known is not None
        assert known[0] == one.uid
        assert int(one.version) > known[1]
    if one.verb == "delete":
        del told[one.key]
    else:
        told[one.key] = (one.uid, int(one.version))
