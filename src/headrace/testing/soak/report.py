"""What came of a soak: each handler's verdict, what the letters say, the processes, their memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.testing.history import Fact, Verdict, check
from headrace.testing.soak.memory import Growth

__all__ = ["Report", "judge"]


@dataclass(slots=True)
class Report:
    """The end of a run. ``faults_found`` has one sentence for each broken promise; none of them means clean.

    Attributes:
        seed, seconds: of the run.
        steps: how often each fault was done.
        handlers: each handler's figures: published, handled, dead, repeats.
        recovery: seconds from the end of a fault until events were handled again: median and longest.
        growth: memory of the longest life.
        cut_short: it was interrupted.
    """

    seed: int
    seconds: float
    steps: Counter[str]
    handlers: dict[str, dict[str, int]]
    recovery: tuple[float, float]
    growth: Growth
    faults_found: list[str] = field(default_factory=list)
    cut_short: bool = False

    @property
    def clean(self) -> bool:
        """No promise was broken."""
        return not self.faults_found

    def as_json(self) -> dict[str, Any]:
        """The object of ``headrace soak --json``."""
        return {
            "seed": self.seed,
            "seconds": round(self.seconds),
            "verdict": "clean" if self.clean else "broken",
            "faults_found": self.faults_found,
            "steps": dict(sorted(self.steps.items())),
            "handlers": self.handlers,
            "recovery_seconds": {"median": self.recovery[0], "longest": self.recovery[1]},
            "memory": {
                "mib": self.growth.last,
                "mib_an_hour": self.growth.slope,
                "judged_seconds": self.growth.seconds,
            },
            "cut_short": self.cut_short,
        }

    def in_words(self) -> list[str]:
        """The same for people."""
        lines = [f"seed       {self.seed}", f"length     {self.seconds / 60:.1f} min"]
        lines += [f"fault      {name}: {count} times" for name, count in sorted(self.steps.items())]
        for name, figures in self.handlers.items():
            lines.append(f"handler    {name}: " + ", ".join(f"{count} {what}" for what, count in figures.items()))
        lines.append(f"recovery   median {self.recovery[0]:.1f} s, longest {self.recovery[1]:.1f} s")
        slope = self.growth.slope
        grows = "too short a life to judge its growth" if slope is None else f"{slope:+.2f} MiB an hour"
        lines.append(f"memory     {self.growth.last:.1f} MiB, {grows}")
        lines += [f"BROKEN     {sentence}" for sentence in self.faults_found[:20]]
        lines.append(f"verdict    {'clean' if self.clean else 'BROKEN'}{' (cut short)' if self.cut_short else ''}")
        return lines


def judge(
    facts: Sequence[Fact], letters: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Each handler's figures, and a sentence for each broken promise.

    Args:
        facts: the history. letters: what ``dlq ls --json`` says of every state. kinds: of events that are not ordinary.
    """
    figures: dict[str, dict[str, int]] = {}
    found: list[str] = []
    published: dict[str, list[Fact]] = {
        "bill": [fact for fact in facts if fact.what == "published" and fact.key is not None],
        "work": [fact for fact in facts if fact.what == "published" and fact.key is None],
    }
    # An output is owed for every order that was billed.
    billed = dict.fromkeys(fact.id for fact in facts if fact.what == "handled" and fact.handler == "bill")
    published["file"] = [Fact("published", id) for id in billed]
    for handler, owed in published.items():
        mine = [letter for letter in letters if letter["handler"] == handler]
        handled = [fact for fact in facts if fact.handler == handler and fact.what == "handled"]
        dead = [Fact("dead", letter["event_id"], None, handler) for letter in mine]
        verdict = check([*owed, *handled, *dead], handler=handler)
        figures[handler] = _figures(verdict)
        found += _broken(handler, verdict)
        found += _misjudged(handler, owed, mine, {fact.id for fact in handled}, kinds)
    return figures, found


def _figures(verdict: Verdict) -> dict[str, int]:
    counts = verdict.counts
    return {
        "published": counts["published"],
        "handled": counts["distinct"],
        "dead": counts["dead"],
        "repeats": verdict.repeats,
        "processes": counts["processes"],
    }


def _broken(handler: str, verdict: Verdict) -> list[str]:
    found = [f"{handler}: {id} was lost" for id in verdict.lost]
    # An owner that was stopped and continues may repeat what its successor handled; a key that skips is broken.
    found += [f"{handler}: {sentence}" for sentence in verdict.disorder if "by the same process" not in sentence]
    return found


def _misjudged(
    handler: str,
    owed: Sequence[Fact],
    letters: Sequence[Mapping[str, Any]],
    handled: set[str],
    kinds: Mapping[str, str],
) -> list[str]:
    """Ordinary events among the dead, and ill ones that are not there."""
    found = [
        f"{handler}: {letter['event_id']} is dead-lettered, though nothing is wrong with it: {letter['reason']}"
        for letter in letters
        if letter["event_id"] not in kinds
    ]
    dead = {letter["event_id"] for letter in letters}
    for fact in owed:
        kind = kinds.get(fact.id)
        if kind is not None and fact.id not in dead:
            found.append(f"{handler}: {fact.id} ({kind}) has no dead letter")
        if kind == "fixable" and fact.id not in handled:
            found.append(f"{handler}: {fact.id} was not handled after its replay")
    return found
