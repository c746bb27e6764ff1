"""One Kafka node for the tests that can share it, and a topic and an app name of its own for each test."""

import itertools
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.kafka.harness import Harness
from tests.servers.kafka import Kafka
from tests.servers.process import Unavailable

_numbers = itertools.count()


@pytest.fixture(scope="session")
def node() -> Iterator[Kafka]:
    try:
        server = Kafka().start()
    except Unavailable as reason:
        pytest.skip(str(reason))
    with server:
        yield server


@pytest.fixture
def app_name() -> str:
    return f"shop{os.getpid()}n{next(_numbers)}"


@pytest.fixture
async def at(node: Kafka, app_name: str) -> AsyncIterator[Harness]:
    harness = Harness(node.url, app_name)
    yield harness
    await harness.close()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle consumer is noticed to be closed after a second at most; tests close many."""
    monkeypatch.setattr("headrace.kafka.group.IDLE_POLL", 0.05)
