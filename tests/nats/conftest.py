"""A nats-server for the tests of this folder, brokers and handlers' bindings on it."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.engine.broker import Binding
from headrace.engine.source import Credit
from headrace.errors import ConfigurationError
from headrace.nats.broker import NatsBroker, create
from headrace.nats.embedded import binary
from tests.nats.server import NatsServer

_apps = itertools.count(1)


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    _needs_binary()
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


def _needs_binary() -> None:
    try:
        binary()
    except ConfigurationError as error:
        pytest.skip(str(error))


@pytest.fixture
def server(_shared: NatsServer) -> NatsServer:
    """One server for all tests that do it no harm; each test uses an app and subjects of its own."""
    return _shared


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server to kill, pause and restart."""
    _needs_binary()
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def app() -> str:
    """A name that no other test uses."""
    return f"app{next(_apps)}"


Connect = Callable[..., Awaitable[NatsBroker]]


@pytest.fixture
async def connect(app: str) -> AsyncIterator[Connect]:
    """Opens brokers, and closes them after the test."""
    opened: list[NatsBroker] = []

    async def make(
        server: NatsServer | str, *, app: str = app, ready_within: float = 5.0, **settings: str
    ) -> NatsBroker:
        url = server if isinstance(server, str) else server.url
        broker = create(url, app=app, settings=settings, ready_within=ready_within)
        await broker.open()
        opened.append(broker)
        return broker

    yield make
    for broker in opened:
        await broker.close()


def binding(broker: NatsBroker, handler: str = "bill", *, keyed: bool = False, **changes: Any) -> Binding:
    """What a source learns about a handler."""
    values: dict[str, Any] = {
        "app": broker.app,
        "handler": handler,
        "keyed": keyed,
        "concurrency": 8,
        "prefetch": Credit(32, 1 << 20),
        "parked": Credit(100, 1 << 20),
        "timeout": 30.0,
        "handlers": (handler,),
        "broker": broker,
        **changes,
    }
    return Binding(**values)
