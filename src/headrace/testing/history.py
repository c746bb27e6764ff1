"""What happened to every event, written down as it happens, and judged afterwards.

A test's publisher and handler write one JSON line a fact into a file that many processes append to, and that outlives them:
each line is one ``write`` to a file opened with O_APPEND, so that SIGKILL leaves whole lines. `check` then says what was lost,
what was out of order, and how often an event was handled again.

The order that is promised, per key: no event is handled before an earlier one of its key was (or is a dead letter). After
a crash or a change of owner a key may go back and repeat; within one process it never goes back.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

__all__ = ["Fact", "History", "Verdict", "check"]

What = Literal["published", "handled", "dead", "effect", "rewound"]


class Fact(msgspec.Struct, frozen=True, array_like=True):
    """One line. ``process`` tells one run of a program from the next: a pid is used again.

    ``published``: the broker confirmed the event. ``handled``: the handler finished. ``dead``: it is a dead letter.
    ``effect``: found in the transactional store. ``rewound``: this process became the owner (of the key, or of all) anew.
    """

    what: What
    id: str = ""
    key: str | None = None
    handler: str = ""
    process: str = ""


_decode = msgspec.json.Decoder(Fact).decode


class History:
    """Writes facts, to a file or (without one) in memory.

    ``path``: a file that other processes may append to as well. ``handler``: whose facts these are.
    """

    def __init__(self, path: str | Path | None = None, *, handler: str = "") -> None:
        self._file = (
            None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        )
        self._handler = handler
        self._process = f"{os.getpid()}.{os.urandom(4).hex()}"
        self.facts: list[Fact] = []

    def published(self, id: str, key: str | None = None) -> None:
        """The broker has confirmed this event; call it in the order of publication."""
        self._write(Fact("published", id, key))

    def handled(self, id: str, key: str | None = None) -> None:
        """The handler has finished with this event."""
        self._write(Fact("handled", id, key, self._handler, self._process))

    def dead(self, id: str) -> None:
        """This event is a dead letter."""
        self._write(Fact("dead", id, None, self._handler))

    def effect(self, id: str) -> None:
        """An effect of this event was found in the store; once for each that was found."""
        self._write(Fact("effect", id, None, self._handler))

    def rewound(self, key: str | None = None) -> None:
        """From here on a key (``None``: every key) may go back, though the process is the same: it has become the owner anew."""
        self._write(Fact("rewound", "", key, self._handler, self._process))

    def _write(self, fact: Fact) -> None:
        if self._file is None:
            self.facts.append(fact)
            return
        line = msgspec.json.encode(fact) + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("the history's disk is full: a line was cut")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @staticmethod
    def read(path: str | Path) -> list[Fact]:
        """Every fact of a file. A last line without its end (a machine that stopped) is left out."""
        whole, _, _ = Path(path).read_bytes().rpartition(b"\n")
        return [_decode(line) for line in whole.split(b"\n") if line]


@dataclass(slots=True)
class Verdict:
    """What `check` found. Ids and sentences are listed up to a hundred of each; ``counts`` has them all.

    ``lost``: neither handled nor dead. ``disorder``: one sentence each. ``doubled``: effects found more than once.
    ``without_effect``: handled, and no effect found (only where effects were looked for). ``repeats``: how often an event
    was handled again. ``strangers``: handled or dead, and never published here.
    """

    lost: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    without_effect: list[str] = field(default_factory=list)
    repeats: int = 0
    strangers: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        """Nothing lost, nothing out of order, no effect missing or doubled. Repeats and strangers are no fault."""
        return not (self.lost or self.disorder or self.doubled or self.without_effect)

    def __str__(self) -> str:
        counts = self.counts
        parts = [
            f"{counts['published']} published, {counts['distinct']} handled, {counts['dead']} dead,"
            f" {self.repeats} repeats, {counts['processes']} processes"
        ]
        for name in ("lost", "disorder", "doubled", "without_effect"):
            found: list[str] = getattr(self, name)
            if found:
                parts.append(f"{counts[name]} {name.replace('_', ' ')}: {'; '.join(found[:5])}")
        return " | ".join(parts)


#: Examples of each fault that a verdict lists.
EXAMPLES = 100


def check(facts: Iterable[Fact], *, ordered: bool = True, effects: bool = False, handler: str = "") -> Verdict:
    """Judge what happened to the events of one handler.

    Parameters:
        facts: in the order they were written; publications may be anywhere.
        ordered: order per key was promised. Events without a key are unordered.
        effects: the store was searched: every handled event must have exactly one effect.
        handler: whose facts count.
    """
    published: dict[str, tuple[str | None, int]] = {}
    lanes: Counter[str | None] = Counter()
    handled: list[Fact] = []
    dead: set[str] = set()
    found: Counter[str] = Counter()
    for fact in facts:
        if fact.what == "published":
            if fact.id not in published:
                published[fact.id] = (fact.key, lanes[fact.key])
                lanes[fact.key] += 1
        elif fact.handler != handler:
            continue
        elif fact.what == "dead":
            dead.add(fact.id)
        elif fact.what == "effect":
            found[fact.id] += 1
        else:
            handled.append(fact)

    verdict = Verdict()
    times = Counter(fact.id for fact in handled if fact.what == "handled")
    _list(verdict, "lost", [id for id in published if id not in times and id not in dead])
    verdict.repeats = sum(times.values()) - len(times)
    verdict.strangers = len((times.keys() | dead) - published.keys())
    if ordered:
        _list(verdict, "disorder", _disorder(published, handled, dead))
    if effects:
        _list(verdict, "doubled", [f"{id} ({count} times)" for id, count in found.items() if count > 1])
        _list(verdict, "without_effect", [id for id in times if id in published and not found[id]])
    verdict.counts["published"] = len(published)
    verdict.counts["distinct"] = len(times)
    verdict.counts["dead"] = len(dead)
    verdict.counts["effects"] = sum(found.values())
    verdict.counts["processes"] = len({fact.process for fact in handled})
    return verdict


def _list(verdict: Verdict, name: str, found: Sequence[str]) -> None:
    verdict.counts[name] = len(found)
    getattr(verdict, name).extend(found[:EXAMPLES])


@dataclass(slots=True)
class _Lane:
    """One key: its events by position, how far it was handled without a gap, where it is, and in which process."""

    events: list[str]
    handled_up_to: int = 0
    at: int = -1
    process: str = ""


def _disorder(published: dict[str, tuple[str | None, int]], handled: Sequence[Fact], dead: set[str]) -> list[str]:
    lanes: dict[str, _Lane] = {}
    for id, (key, _) in published.items():
        if key is not None:
            lanes.setdefault(key, _Lane([])).events.append(id)
    done: set[str] = set()
    faults: list[str] = []
    for fact in handled:
        if fact.what == "rewound":
            for lane in lanes.values() if fact.key is None else [lanes[fact.key]] if fact.key in lanes else []:
                lane.process = ""
            continue
        key, position = published.get(fact.id, (None, 0))
        if key is None:
            continue
        lane = lanes[key]
        # Everything before it must be over: handled once, or a dead letter.
        while lane.handled_up_to < position and (
            lane.events[lane.handled_up_to] in done or lane.events[lane.handled_up_to] in dead
        ):
            lane.handled_up_to += 1
        if lane.handled_up_to < position:
            missing = lane.events[lane.handled_up_to]
            faults.append(f"key {key}: {fact.id} was handled before {missing}")
        if lane.process == fact.process and position <= lane.at:
            faults.append(f"key {key}: {fact.id} was handled after {lane.events[lane.at]} by the same process")
        done.add(fact.id)
        lane.at, lane.process = position, fact.process
    return faults
