"""The history checker finds each fault that is planted, and none where there is none."""

import random
import signal
import subprocess
import sys

import pytest

from headrace.testing.history import Fact, History, check


def publications(keys: int = 3, each: int = 20) -> list[Fact]:
    return [Fact("published", f"{key}-{n}", key) for n in range(each) for key in map(str, range(keys))]


def handling(events: list[Fact], process: str = "one") -> list[Fact]:
    return [Fact("handled", event.id, event.key, "", process) for event in events]


def test_everything_handled_in_order_is_well():
    events = publications()
    verdict = check(events + handling(events))
    assert verdict.ok
    assert verdict.repeats == verdict.strangers == 0
    assert verdict.counts["distinct"] == 60


def test_keys_may_be_interleaved_in_any_way():
    events = publications(5, 30)
    dice = random.Random(1)
    lanes = [[event for event in events if event.key == str(key)] for key in range(5)]
    mixed = []
    while any(lanes):
        mixed.append(dice.choice([lane for lane in lanes if lane]).pop(0))
    assert check(events + handling(mixed)).ok


def test_a_lost_event_is_named():
    events = publications()
    verdict = check(events + handling(events[:-1]))
    assert verdict.lost == [events[-1].id]
    assert not verdict.ok
    assert "1 lost: 2-19" in str(verdict)


def test_a_dead_letter_is_not_lost_and_those_behind_it_are_in_order():
    events = publications(1)
    verdict = check([*events, *handling(events[:3] + events[4:]), Fact("dead", events[3].id)])
    assert verdict.ok
    assert verdict.counts["dead"] == 1


def test_a_skipped_event_is_disorder_even_if_it_is_handled_later():
    events = publications(1)
    swapped = [*events[:3], events[4], events[3], *events[5:]]
    verdict = check(events + handling(swapped))
    assert "0-4 was handled before 0-3" in verdict.disorder[0]
    assert not verdict.lost


def test_order_is_not_judged_where_it_was_not_promised():
    events = publications(1)
    assert check(events + handling(events[::-1]), ordered=False).ok
    keyless = [Fact("published", event.id) for event in events]
    assert check(keyless + handling(events[::-1])).ok


def test_after_a_crash_a_key_may_go_back_and_repeat():
    events = publications(1)
    verdict = check(events + handling(events[:10]) + handling(events[5:], "two"))
    assert verdict.ok
    assert verdict.repeats == 5


def test_after_a_crash_what_the_ledger_knows_may_be_left_out():
    events = publications(1)
    again = [events[5], events[7], *events[10:]]
    assert check(events + handling(events[:10]) + handling(again, "two")).ok


def test_after_a_crash_a_key_may_not_skip():
    events = publications(1)
    verdict = check(events + handling(events[:10]) + handling(events[11:], "two") + handling(events[10:11], "two"))
    assert "0-11 was handled before 0-10" in verdict.disorder[0]


def test_one_process_may_not_go_back():
    events = publications(1)
    verdict = check(events + handling([*events[:10], *events[8:]]))
    assert verdict.disorder == ["key 0: 0-8 was handled after 0-9 by the same process"]


def test_one_process_handling_an_event_twice_in_a_row_went_back():
    events = publications(1)
    assert len(check(events + handling([events[0], *events])).disorder) == 1


def test_an_owner_that_begins_anew_may_go_back():
    events = publications(2)
    facts = [*events, *handling(events[:10]), Fact("rewound", process="one"), *handling(events[4:])]
    assert check(facts).ok
    one_key = [*events, *handling(events[:10]), Fact("rewound", "", "0", "", "one"), *handling(events[4:])]
    assert {fault[:5] for fault in check(one_key).disorder} == {"key 1"}


def test_a_late_owner_that_overlaps_its_successor_is_found():
    events = publications(1)
    facts = (
        events
        + handling(events[:5])
        + handling(events[5:8], "two")
        + handling(events[9:10])
        + handling(events[8:], "two")
    )
    assert "0-9 was handled before 0-8" in check(facts).disorder[0]


def test_effects_are_exactly_once():
    events = publications(1, 4)
    facts = events + handling(events)
    facts += [Fact("effect", event.id) for event in (events[0], events[1], events[1], events[2])]
    verdict = check(facts, effects=True)
    assert verdict.doubled == ["0-1 (2 times)"]
    assert verdict.without_effect == ["0-3"]
    assert not verdict.ok


def test_a_stranger_is_counted():
    events = publications()
    verdict = check(events + handling([*events, Fact("published", "unknown", "0")]))
    assert verdict.ok
    assert verdict.strangers == 1


def test_handlers_are_judged_apart():
    events = publications(1)
    other = [Fact("handled", event.id, event.key, "other", "one") for event in events]
    assert check(events + other, handler="other").ok
    assert len(check(events + other).lost) == 20


def test_a_publication_confirmed_twice_counts_once():
    events = publications(1)
    assert check([*events, *events[:5], *handling(events)]).ok


@pytest.mark.parametrize("seed", range(20))
def test_a_fault_planted_anywhere_is_found(seed):
    dice = random.Random(seed)
    events = publications(3, 30)
    facts = handling(events)
    kind = dice.choice(["drop", "swap", "repeat"])
    place = dice.randrange(3, len(facts) - 3)
    if kind == "drop":
        del facts[place]
    elif kind == "swap":
        facts[place], facts[place - 3] = facts[place - 3], facts[place]
    else:
        facts.insert(place, facts[place - 3])
    verdict = check(events + facts)
    assert not verdict.ok
    assert bool(verdict.lost) == (kind == "drop")
    assert verdict.repeats == (kind == "repeat")


def test_a_file_holds_what_many_processes_wrote(tmp_path):
    path = tmp_path / "history"
    script = (
        "import sys\n"
        "from headrace.testing.history import History\n"
        "history = History(sys.argv[1])\n"
        "for number in range(500):\n"
        "    history.handled(f'{sys.argv[2]}-{number}', sys.argv[2])\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, path, str(key)]) for key in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    history = History(path)
    for event in publications(3, 500):
        history.published(event.id, event.key)
    history.close()
    verdict = check(History.read(path))
    assert verdict.ok
    assert verdict.counts["processes"] == 3


def test_kill_9_leaves_whole_lines(tmp_path):
    path = tmp_path / "history"
    script = (
        "import itertools, sys\n"
        "from headrace.testing.history import History\n"
        "history = History(sys.argv[1])\n"
        "for number in itertools.count():\n"
        "    history.handled(str(number), 'key')\n"
        "    if number == 1000:\n"
        "        print('going', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    facts = History.read(path)
    assert [fact.id for fact in facts] == [str(number) for number in range(len(facts))]
    assert path.read_bytes().endswith(b"\n")


def test_a_line_without_its_end_is_left_out(tmp_path):
    path = tmp_path / "history"
    path.write_bytes(b'["published","a","k"]\n["handled","a","k')
    assert [fact.what for fact in History.read(path)] == ["published"]


def test_a_history_in_memory_is_judged_alike():
    history = History()
    history.published("a", "k")
    history.handled("a", "k")
    history.effect("a")
    history.rewound()
    history.handled("a", "k")
    history.dead("b")
    verdict = check(history.facts, effects=True)
    assert verdict.ok
    assert (verdict.repeats, verdict.strangers) == (1, 1)
