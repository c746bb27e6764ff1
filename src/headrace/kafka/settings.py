"""From a broker URL and ``HEADRACE_KAFKA_*`` settings to librdkafka's configuration.

``kafka://[user:password@]host:port[,host:port …][/?option=value&…]``. Any librdkafka option may be given, in the URL's
query or as a setting: ``HEADRACE_KAFKA_SASL_MECHANISM`` is ``sasl.mechanism``. Options that would break the promise
(automatic commits, fewer acknowledgements) are refused by name; options of one client only are kept from the other,
which would log about them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from headrace.errors import ConfigurationError

__all__ = ["Connection", "consumer_options", "parse", "producer_options", "shared_options"]

PREFIX: Final = "HEADRACE_KAFKA_"
_SHORT_PREFIX: Final = "KAFKA_"
PORT: Final = 9092

_REFUSED: Final = {
    "group.id": "name it with Topic(..., group=...)",
    "enable.auto.commit": "offsets are committed when their events are settled",
    "enable.auto.offset.store": "offsets are committed when their events are settled",
    "auto.offset.reset": "say where a new group begins with start=",
    "enable.idempotence": "the producer is always idempotent",
    "acks": "every publish is confirmed by all in-sync replicas",
    "request.required.acks": "every publish is confirmed by all in-sync replicas",
    "transactional.id": "Headrace names its own transactions",
    "enable.partition.eof": "the end of a partition is no event",
    "bootstrap.servers": "the URL names the servers",
    "metadata.broker.list": "the URL names the servers",
}
_CONSUMER: Final = (
    "group.",
    "session.timeout.",
    "heartbeat.",
    "partition.assignment.",
    "coordinator.",
    "max.poll.",
    "auto.commit.",
    "queued.",
    "fetch.",
    "max.partition.fetch.",
    "isolation.level",
    "consume.",
    "check.crcs",
)
_PRODUCER: Final = (
    "queue.buffering.",
    "linger.ms",
    "message.send.max.retries",
    "retries",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "request.timeout.ms",
    "compression.",
    "batch.",
    "partitioner",
    "sticky.partitioning.",
    "transaction.timeout.ms",
    "enable.gapless.guarantee",
    "queuing.strategy",
    "max.in.flight.requests.per.connection",
)
#: librdkafka refuses these with the new group protocol, or ignores them with an error.
_CLASSIC_ONLY: Final = (
    "partition.assignment.strategy",
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "group.protocol.type",
)
#: Ours, not librdkafka's: a function that gets OAUTHBEARER tokens; partitions and replicas of topics that we create.
OAUTH_CALLBACK: Final = "oauth.callback"
PARTITIONS: Final = "partitions"
REPLICATION: Final = "replication"
_OURS: Final = frozenset({OAUTH_CALLBACK, PARTITIONS, REPLICATION})

_CONSUMER_DEFAULTS: Final = {
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    # An offset out of range is looked into (recreated, expired, reset), never jumped from.
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    # Markers of transactions and gaps at the end of a log are told from lag by it.
    "enable.partition.eof": "true",
    # The default of 1000 caps a consumer at a fifth of its speed: it pauses that long once its queue was full.
    "fetch.queue.backoff.ms": "10",
    # As fast as the defaults of 100,000 messages and 64 MiB, at a fourth of the memory.
    "queued.min.messages": "20000",
    "queued.max.messages.kbytes": "16384",
    "fetch.max.bytes": "16777216",
}
_PRODUCER_DEFAULTS: Final = {
    "enable.idempotence": "true",
    "acks": "all",
    # A publisher waits for its confirmation: a millisecond gathers a batch and costs little.
    "linger.ms": "1",
    "queue.buffering.max.kbytes": "65536",
    # The default partitioner of the Java clients, so that both put a key into the same partition.
    "partitioner": "murmur2_random",
    # The broker's limit decides; the client's default of 1,000,000 is below even its default.
    "message.max.bytes": "8388608",
    "message.timeout.ms": "120000",
}


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the brokers are and how to talk to them. ``url`` has its secrets hidden."""

    servers: str
    url: str
    options: Mapping[str, str] = field(repr=False)

    def number(self, name: str, default: int) -> int:
        """One of our own options as a whole number. Raises `ConfigurationError` where it is none."""
        text = self.options.get(name)
        if text is None:
            return default
        try:
            return int(text)
        except ValueError:
            raise ConfigurationError(f"{PREFIX}{name.upper()}={text!r} is not a whole number") from None


def parse(url: str, settings: Mapping[str, str]) -> Connection:
    """Read a ``kafka://`` URL and settings; what the URL's query says wins.

    ``settings``: by librdkafka's names (``sasl.mechanism``) or as the app's settings have them
    (``HEADRACE_KAFKA_SASL_MECHANISM``, ``kafka_sasl_mechanism``); others are not for Kafka.

    Raises:
        ConfigurationError: no such URL, or an option that cannot be.
    """
    scheme, _, rest = url.partition("://")
    address, _, query = rest.partition("?")
    address, _, path = address.partition("/")
    login, _, hosts = address.rpartition("@")
    if scheme != "kafka" or not hosts:
        raise ConfigurationError(f"{_hidden(url)!r} is no Kafka address: kafka://host:port[,host:port …]")
    if path:
        raise ConfigurationError(
            f"{_hidden(url)!r} is no Kafka address: it has no path; options follow a question mark"
        )
    options = {_option(name): value for name, value in settings.items() if _is_ours(name)}
    if login:
        user, _, password = login.partition(":")
        options["sasl.username"], options["sasl.password"] = unquote(user), unquote(password)
        options.setdefault("sasl.mechanism", "PLAIN")
    options.update((_option(name), value) for name, value in parse_qsl(query, keep_blank_values=True))
    if "sasl.mechanisms" in options:
        options["sasl.mechanism"] = options.pop("sasl.mechanisms")
    _derive_protocol(options)
    check_options(options, _hidden(url))
    _check_tokens(options, _hidden(url))
    servers = ",".join(_with_port(host, _hidden(url)) for host in hosts.split(",") if host)
    return Connection(servers, f"kafka://{'***@' if login else ''}{servers}", options)


def _derive_protocol(options: dict[str, str]) -> None:
    """Credentials mean SASL, certificates mean TLS: `security.protocol` need not be spelled."""
    if "security.protocol" in options:
        return
    sasl = "sasl.mechanism" in options
    tls = any(name.startswith("ssl.") for name in options)
    if sasl or tls:
        options["security.protocol"] = {(True, True): "SASL_SSL", (True, False): "SASL_PLAINTEXT"}.get(
            (sasl, tls), "SSL"
        )


def check_options(options: Mapping[str, str], where: str) -> None:
    """Raise `ConfigurationError` for options that would break what Headrace promises."""
    for name in options:
        if name in _REFUSED:
            raise ConfigurationError(f"{where}: the Kafka option {name} cannot be set: {_REFUSED[name]}")


def _check_tokens(options: Mapping[str, str], where: str) -> None:
    """Raise `ConfigurationError` where nothing would get the tokens of OAUTHBEARER: the client waits for the first for ever."""
    if options.get("sasl.mechanism", "").upper() != "OAUTHBEARER" or OAUTH_CALLBACK in options:
        return
    if (
        options.get("sasl.oauthbearer.method") != "oidc"
        and options.get("enable.sasl.oauthbearer.unsecure.jwt") != "true"
    ):
        raise ConfigurationError(
            f"{where}: sasl.mechanism=OAUTHBEARER needs oauth.callback=module:function, or sasl.oauthbearer.method=oidc with its "
            "options"
        )


def _is_ours(name: str) -> bool:
    """Settings of other transports come along: ours have the prefix, or are spelled as librdkafka spells its options."""
    return name.upper().startswith((PREFIX, _SHORT_PREFIX)) or "." in name


def _option(name: str) -> str:
    for prefix in (PREFIX, _SHORT_PREFIX):
        if name.upper().startswith(prefix):
            name = name[len(prefix) :]
    return name.lower().replace("_", ".")


def _with_port(host: str, where: str) -> str:
    head, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        return f"{host}:{PORT}"
    # librdkafka takes what is no number for 0, and of one that is too large what is left in 16 bits.
    if not (head and port.isdecimal() and port.isascii() and 0 < int(port) < 65536):
        raise ConfigurationError(
            f"{where!r} is no Kafka address: {host!r} needs a port from 1 to 65535 behind its host"
        )
    return host


def _hidden(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    rest = rest.partition("?")[0]
    login, at, hosts = rest.rpartition("@")
    return f"{scheme}{separator}{'***@' if login else at}{hosts}"


def shared_options(connection: Connection) -> dict[str, Any]:
    """What every client of this connection is given."""
    config: dict[str, Any] = {
        "bootstrap.servers": connection.servers,
        "client.id": "headrace",
        # A broker that went away is no news: it is in `progress` and in the error callback.
        "log.connection.close": "false",
        "reconnect.backoff.ms": "50",
        "reconnect.backoff.max.ms": "2000",
        "topic.metadata.refresh.interval.ms": "30000",
        "socket.keepalive.enable": "true",
        # A broker that comes back answers for a moment that the cluster has no broker. The client believes it, forgets the one it
        # knew, and begins again with the bootstrap servers only after this; by default after five minutes.
        "metadata.recovery.rebootstrap.trigger.ms": "5000",
    }
    for name, value in connection.options.items():
        if name == OAUTH_CALLBACK:
            config["oauth_cb"] = _callback(value)
        elif name not in _OURS and not name.startswith(_CONSUMER) and not name.startswith(_PRODUCER):
            config[name] = value
    return config


def consumer_options(connection: Connection, extra: Mapping[str, str], *, group: str) -> dict[str, Any]:
    """The configuration of a consumer; ``extra`` are options of its `Topic`, which win over the connection's."""
    given = {name: value for name, value in {**connection.options, **extra}.items() if not name.startswith(_PRODUCER)}
    config = {**shared_options(connection), **_CONSUMER_DEFAULTS, "group.id": group}
    if given.get("group.protocol", "classic") == "consumer":
        for name in _CLASSIC_ONLY:
            given.pop(name, None)
    else:
        config["partition.assignment.strategy"] = "cooperative-sticky"
        # Members learn of a rebalance by their heartbeats: at the default of three seconds each step of one takes as long.
        config["heartbeat.interval.ms"] = "1000"
        # A member that was killed is missed after this, not after 45 seconds: its partitions stand still meanwhile.
        config["session.timeout.ms"] = "15000"
    config.update((name, value) for name, value in given.items() if name not in _OURS)
    # Workers of one supervisor are a member each, and keep theirs when they are started again.
    slot = os.environ.get("HEADRACE_SLOT", "0")
    if "group.instance.id" in config and slot != "0":
        config["group.instance.id"] += f".worker-{slot}"
    return config


def producer_options(connection: Connection) -> dict[str, Any]:
    """The configuration of the producer."""
    given = {name: value for name, value in connection.options.items() if name.startswith(_PRODUCER)}
    config = {**shared_options(connection), **_PRODUCER_DEFAULTS, **given}
    if "message.max.bytes" in connection.options:
        config["message.max.bytes"] = connection.options["message.max.bytes"]
    return config


def _callback(path: str) -> Any:
    """The function named ``module:function``: it gets librdkafka's OAuth configuration and returns (token, expiry)."""
    from importlib import import_module

    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"{PREFIX}OAUTH_CALLBACK={path!r} names no function (module:function): {error}"
        ) from error
    if not callable(found):
        raise ConfigurationError(f"{PREFIX}OAUTH_CALLBACK={path!r} is no function")
    return found
