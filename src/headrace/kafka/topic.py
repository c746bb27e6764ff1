"""What a user writes: a topic as a source or a sink, settings without a connection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from headrace.errors import ConfigurationError

if TYPE_CHECKING:
    from headrace.engine.broker import Binding, Broker
    from headrace.engine.sink import Sink
    from headrace.engine.source import Source
    from headrace.kafka.broker import KafkaBroker

__all__ = ["Topic"]

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


class Topic:
    """A Kafka topic.

    Args:
        name: the topic, or for a source a pattern beginning with ``^`` (a regular expression; topics that appear later
            are read as they are found).
        group: the consumer group; default ``<app>__<handler>``.
        start: where a group without commits begins: ``"earliest"`` (default), ``"latest"``, a datetime or its ISO 8601
            text, or ``{partition: offset}``. A partition that is added later always begins at its beginning.
        broker: a ``kafka://`` URL; default the app's broker.
        partitions, replication, config: the topic as it is declared (``{"retention.ms": "…", "cleanup.policy": "compact"}``):
            created like this, and an error at start-up where an existing one differs. Not given: not checked.
        create: whether a missing topic may be created.
        instance: the group instance id of static membership; each replica needs one of its own.
        isolation: ``"read_committed"`` (default) or ``"read_uncommitted"``.
        tombstones: as a sink: an event without data and with a key goes out as a null value.
        forward_key: as a sink: the ``partitionkey`` that a forwarded event came with becomes the record key.
        options: librdkafka options of this source's consumer.
    """

    #: What names the lane of an event where the user names no key.
    default_lane = "record key"

    def __init__(
        self,
        name: str,
        *,
        group: str | None = None,
        start: Any = None,
        broker: str | None = None,
        partitions: int | None = None,
        replication: int | None = None,
        config: Mapping[str, str] | None = None,
        create: bool = True,
        instance: str | None = None,
        isolation: str = "read_committed",
        tombstones: bool = False,
        forward_key: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> None:
        if isolation not in ("read_committed", "read_uncommitted"):
            raise ConfigurationError(f'Topic({name!r}): isolation is "read_committed" or "read_uncommitted"')
        _check(name)
        self.topic = name
        self.name = f"kafka:{name}"
        self.group = group
        self.start = start
        self.broker = broker
        self.partitions = partitions
        self.replication = replication
        self.config = dict(config or {})
        self.create = create
        self.tombstones = tombstones
        self.forward_key = forward_key
        self.options: dict[str, str] = {"isolation.level": isolation, **(options or {})}
        if instance is not None:
            self.options["group.instance.id"] = instance

    def __repr__(self) -> str:
        return f"Topic({self.topic!r})"

    @property
    def is_pattern(self) -> bool:
        """Whether ``name`` is a regular expression."""
        return self.topic.startswith("^")

    def bind(self, binding: Binding) -> Source:
        """The source for one handler. See `headrace.engine.source.Declaration`."""
        where = f"handler {binding.handler!r}"
        return self._broker(binding.broker, where, binding.settings, binding.app).topic(self, binding)

    def sink(self, broker: Broker | None) -> Sink:
        """The sink. See `headrace.engine.sink.SinkDeclaration`."""
        if self.is_pattern:
            raise ConfigurationError(f"{self!r} is a pattern: events are published to one topic")
        return self._broker(broker, repr(self), {}, "headrace").topic_sink(self)

    def _broker(self, broker: object, where: str, settings: Mapping[str, str], app: str) -> KafkaBroker:
        from headrace.kafka.broker import KafkaBroker, create

        if self.broker is not None:
            return create(self.broker, app=app, settings=settings, ready_within=10.0, owned=True)
        if not isinstance(broker, KafkaBroker):
            raise ConfigurationError(
                f"{where}: {self!r} needs a Kafka broker: set HEADRACE_BROKER=kafka://host:port or Topic(..., broker=…)"
            )
        return broker


def _check(name: str) -> None:
    """Raise `ConfigurationError` for what is neither a topic's name nor a pattern."""
    if name.startswith("^"):
        try:
            re.compile(name)
        except re.error as error:
            raise ConfigurationError(f"Topic({name!r}): the pattern is no regular expression: {error}") from None
    elif not _NAME.fullmatch(name) or name in (".", ".."):
        raise ConfigurationError(
            f"Topic({name!r}): a topic's name has 1 to 249 letters, digits, dots, hyphens and underscores; a pattern begins with ^"
        )
