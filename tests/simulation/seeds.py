"""Runs seeds in as many processes as there are cores; a failing seed is named with the rule that it broke."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from headrace.testing.simulation import Bug, simulate

CHUNK = 25


def _chunk(first: int, last: int) -> tuple[list[str], int]:
    faults, steps = [], 0
    for seed in range(first, last):
        report = simulate(seed)
        steps += report.steps
        if report.fault:
            faults.append(report.fault)
    return faults, steps


def run(first: int, count: int) -> tuple[list[str], int]:
    """The faults of so many seeds, and how many attempts of handlers were run."""
    faults: list[str] = []
    steps = 0
    for found, taken in chunks(range(first, first + count, CHUNK), first + count):
        faults += found
        steps += taken
    return faults, steps


def chunks(starts: Iterable[int], end: int) -> Iterator[tuple[list[str], int]]:
    """Results of chunks of seeds, in order."""
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        begun = [pool.submit(_chunk, start, min(start + CHUNK, end)) for start in starts]
        for future in begun:
            yield future.result()


def found_by(bug: Bug, limit: int) -> tuple[int, str] | None:
    """How many seeds, counted from 1, it takes to find a planted bug, and what is said of it."""
    for seed in range(1, limit + 1):
        report = simulate(seed, bug)
        if report.fault:
            return seed, report.fault
    return None
