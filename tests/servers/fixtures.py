"""Fixtures that hand a running server to a test.

``nats_server`` and its kin are shared by the whole run: a test takes names of its own in them and leaves them as they are.
``start_nats`` and its kin start a private server with the options of its class, for a test that kills, pauses or configures
it; what they started is closed after the test. A server that cannot be had here is a skip with the reason.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.servers.alertmanager import Alertmanager
from tests.servers.apiserver import ApiServer
from tests.servers.kafka import Kafka
from tests.servers.mosquitto import Mosquitto
from tests.servers.nats import Nats, NatsCluster
from tests.servers.postgres import Postgres
from tests.servers.process import Unavailable
from tests.servers.redis import Redis
from tests.servers.server import Server
from tests.servers.toxiproxy import Toxiproxy
from tests.servers.wire import Wire

S = TypeVar("S", bound=Server)


def _started(server: S) -> S:
    try:
        return server.start()
    except Unavailable as reason:
        server.close()
        pytest.skip(str(reason))


def _shared(kind: type[S]) -> Iterator[S]:
    server = _started(kind())
    yield server
    server.close()


def _private(kind: type[S]) -> Iterator[Callable[..., S]]:
    servers: list[S] = []

    def start(**options: object) -> S:
        server = kind(**options)  # type: ignore[arg-type]
        servers.append(server)
        return _started(server)

    yield start
    for server in reversed(servers):
        server.close()


@pytest.fixture(scope="session")
def nats_server() -> Iterator[Nats]:
    """The shared NATS server, with JetStream."""
    yield from _shared(Nats)


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[Kafka]:
    """The shared Kafka node."""
    yield from _shared(Kafka)


@pytest.fixture(scope="session")
def kubernetes_server() -> Iterator[ApiServer]:
    """The shared Kubernetes API server and its etcd."""
    yield from _shared(ApiServer)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The shared PostgreSQL server."""
    yield from _shared(Postgres)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """The shared Redis server."""
    yield from _shared(Redis)


@pytest.fixture(scope="session")
def mosquitto_server() -> Iterator[Mosquitto]:
    """The shared MQTT broker."""
    yield from _shared(Mosquitto)


@pytest.fixture(scope="session")
def toxiproxy_server() -> Iterator[Toxiproxy]:
    """The shared Toxiproxy."""
    yield from _shared(Toxiproxy)


@pytest.fixture(scope="session")
def alertmanager_server() -> Iterator[Alertmanager]:
    """The shared Alertmanager."""
    yield from _shared(Alertmanager)


@pytest.fixture
def start_nats() -> Iterator[Callable[..., Nats]]:
    """Starts a private NATS server; options as `Nats` takes them."""
    yield from _private(Nats)


@pytest.fixture
def start_nats_cluster() -> Iterator[Callable[..., NatsCluster]]:
    """Starts a private NATS cluster."""
    yield from _private(NatsCluster)


@pytest.fixture
def start_kafka() -> Iterator[Callable[..., Kafka]]:
    """Starts a private Kafka node."""
    yield from _private(Kafka)


@pytest.fixture
def start_kubernetes() -> Iterator[Callable[..., ApiServer]]:
    """Starts a private Kubernetes API server."""
    yield from _private(ApiServer)


@pytest.fixture
def start_postgres() -> Iterator[Callable[..., Postgres]]:
    """Starts a private PostgreSQL server."""
    yield from _private(Postgres)


@pytest.fixture
def start_redis() -> Iterator[Callable[..., Redis]]:
    """Starts a private Redis server."""
    yield from _private(Redis)


@pytest.fixture
def start_mosquitto() -> Iterator[Callable[..., Mosquitto]]:
    """Starts a private MQTT broker."""
    yield from _private(Mosquitto)


@pytest.fixture
def start_alertmanager() -> Iterator[Callable[..., Alertmanager]]:
    """Starts a private Alertmanager, for a webhook of the test's own."""
    yield from _private(Alertmanager)


@pytest.fixture
def start_wire() -> Iterator[Callable[[int], Wire]]:
    """Puts a wire that can be broken in front of a server's port; connect to its ``port``."""
    wires: list[Wire] = []

    def start(server_port: int, *, port: int = 0) -> Wire:
        wire = Wire(server_port, port=port).start()
        wires.append(wire)
        return wire

    yield start
    for wire in wires:
        wire.close()
