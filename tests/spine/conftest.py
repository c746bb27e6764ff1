"""A nats-server and runs of ``headrace run`` on it; all of it ends with the test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.nats import Nats
from tests.spine.process import Run


@pytest.fixture
def nats(start_nats: Callable[..., Nats]) -> Nats:
    """A server of the test's own, to be broken."""
    return start_nats()


@pytest.fixture
def start(tmp_path: Path, nats: Nats) -> Iterator[Callable[..., Run]]:
    """Makes runs in the test's folder, on ``nats`` where no other broker is named; what still runs is killed afterwards."""
    runs: list[Run] = []

    def make(broker: str | None = None, **options: Any) -> Run:
        run = Run(tmp_path, broker or nats.url, **options)
        runs.append(run)
        return run.start()

    yield make
    for run in runs:
        run.close()


Start = Callable[..., Run]
