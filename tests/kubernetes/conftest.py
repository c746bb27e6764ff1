"""One API server for every test that only reads and writes; tests that break one start their own."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.kubernetes.actor import Actor
from tests.servers.apiserver import ApiServer
from tests.servers.process import Unavailable


def _started(*flags: str) -> ApiServer:
    try:
        return ApiServer(flags=flags).start()
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cluster() -> Iterator[ApiServer]:
    """The shared API server."""
    server = _started()
    yield server
    server.close()


@pytest.fixture
async def actor(cluster: ApiServer) -> AsyncIterator[Actor]:
    """An admin with a namespace of its own on the shared server."""
    made = Actor(cluster.kubeconfig)
    await made.begin()
    yield made
    await made.close()


@pytest.fixture
def private() -> Iterator[ApiServer]:
    """An API server of the test's own, to be broken."""
    server = _started()
    yield server
    server.close()


@pytest.fixture
async def owner(private: ApiServer) -> AsyncIterator[Actor]:
    """An admin with a namespace of its own on the private server."""
    made = Actor(private.kubeconfig)
    await made.begin()
    yield made
    await made.close()
