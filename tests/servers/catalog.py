"""The names of the test servers, each with what makes it; a server's module is imported when it is asked for."""

from importlib import import_module

from tests.servers.server import Server

_HOMES = {
    "nats": "nats:Nats",
    "nats-cluster": "nats:NatsCluster",
    "kafka": "kafka:Kafka",
    "kubernetes": "apiserver:ApiServer",
    "postgres": "postgres:Postgres",
    "redis": "redis:Redis",
    "mosquitto": "mosquitto:Mosquitto",
    "toxiproxy": "toxiproxy:Toxiproxy",
    "alertmanager": "alertmanager:Alertmanager",
}

NAMES = tuple(_HOMES)


def server_class(name: str) -> type[Server]:
    """The class of the server ``name``, one of ``NAMES``."""
    module, _, attribute = _HOMES[name].partition(":")
    found: type[Server] = getattr(import_module(f"tests.servers.{module}"), attribute)
    return found
