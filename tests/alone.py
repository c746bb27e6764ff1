"""Tests marked ``alone`` have the machine to themselves, also where a run has several processes (pytest-xdist).

Each process locks around each test: shared for an ordinary test, exclusive for one that is marked. A test that waits for
the exclusive lock keeps the gate shut meanwhile, or the others would never leave it room.
"""

import fcntl
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest


class Gate:
    """The locks of one run, shared by its processes."""

    def __init__(self, run: str) -> None:
        folder = Path(tempfile.gettempdir())
        self._gate = (folder / f"headrace-tests-{run}.gate").open("w")
        self._machine = (folder / f"headrace-tests-{run}.machine").open("w")

    @contextmanager
    def passed(self, *, alone: bool) -> Iterator[None]:
        """Hold the machine, alone or with others."""
        with _locked(self._gate, fcntl.LOCK_EX):
            fcntl.flock(self._machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self._machine, fcntl.LOCK_UN)

    def remove(self) -> None:
        """Delete the files; whoever still has them open keeps the locks."""
        for file in (self._gate, self._machine):
            Path(file.name).unlink(missing_ok=True)


@contextmanager
def _locked(file: IO[str], kind: int) -> Iterator[None]:
    fcntl.flock(file, kind)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


_gate = pytest.StashKey[Gate]()


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        config.stash[_gate] = Gate(worker["testrunuid"])


def pytest_unconfigure(config: pytest.Config) -> None:
    if _gate in config.stash:
        config.stash[_gate].remove()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool | None, bool | None]:
    """The fixtures of a test are part of what the lock covers."""
    gate = item.config.stash.get(_gate, None)
    if gate is None:
        return (yield)
    with gate.passed(alone=item.get_closest_marker("alone") is not None):
        return (yield)
