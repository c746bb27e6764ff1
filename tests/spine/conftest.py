"""A nats-server and runs of ``headrace run`` on it; all of it ends with the test."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.nats import Nats
from tests.spine.process import Run, publish


@pytest.fixture
def nats(start_nats: Callable[..., Nats]) -> Nats:
    """A server of the test's own, to be broken."""
    return start_nats()


@pytest.fixture
def start(tmp_path: Path, nats: Nats) -> Iterator[Callable[..., Run]]:
    """Makes runs in the test's folder, on ``nats`` where no other broker is named; what still runs is killed afterwards.

    ``backlog``: orders that are published before it starts, so that a fault meets it at work however slow the publisher is.
    """
    runs: list[Run] = []

    def make(broker: str | None = None, *, backlog: Iterable[tuple[str, str, str]] = (), **options: Any) -> Run:
        run = Run(tmp_path, broker or nats.url, **options)
        runs.append(run)
        if backlog:
            publish(run, backlog, broker=nats.url)
        return run.start()

    yield make
    for run in runs:
        run.close()


Start = Callable[..., Run]
