"""The Kafka broker object: channels, topics, replays, dead letters and suspects of one app on one cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from headrace.engine.broker import Binding, Finding
from headrace.errors import PublishFailed, StoreUnavailable
from headrace.kafka.admin import Admin
from headrace.kafka.guard import guard_rename
from headrace.kafka.producer import Producer
from headrace.kafka.settings import (
    PARTITIONS,
    REPLICATION,
    Connection,
    check_options,
    consumer_options,
    parse,
    producer_options,
    shared_options,
)
from headrace.kafka.sink import KafkaSink
from headrace.kafka.source import KafkaSource
from headrace.kafka.start import parse_start
from headrace.kafka.topics import Shape, ensure, reach
from headrace.kafka.trial import first_token, try_consumer

if TYPE_CHECKING:
    from headrace.engine.checkpoints import Checkpoints, Suspects
    from headrace.engine.dead_letters import DeadLetter, DeadLetterStore
    from headrace.engine.sink import Sink
    from headrace.engine.source import Declaration, Source
    from headrace.event import Event
    from headrace.kafka.topic import Topic

__all__ = ["KafkaBroker", "create"]

#: Partitions of a channel's topic that we create, so that replicas of an app share the work.
CHANNEL_PARTITIONS: Final = 12
REPLAY_PARTITIONS: Final = 4
#: Seconds that closing waits for publishes that the brokers have not confirmed.
_OUTSTANDING: Final = 1.0


def create(url: str, *, app: str, settings: Mapping[str, str], ready_within: float, owned: bool = False) -> KafkaBroker:
    """A broker object, not connected yet. ``owned``: it belongs to one `Topic` and is closed with its source or sink.

    Raises:
        ConfigurationError: no such URL or option.
        ModuleNotFoundError: confluent-kafka is not installed (the extra ``kafka``).
    """
    import confluent_kafka  # noqa: F401 - a missing extra is an error at start-up, not at the first event

    return KafkaBroker(parse(url, settings), app=app, ready_within=ready_within, owned=owned)


class KafkaBroker:
    """See `headrace.engine.broker.Broker` for the contract."""

    name = "kafka"
    #: Settings of ours, not librdkafka's, and what each is where it is not set; shown by `headrace check`.
    own_defaults: Final = {"kafka_partitions": str(CHANNEL_PARTITIONS), "kafka_replication": "the broker's default"}

    def __init__(self, connection: Connection, *, app: str, ready_within: float, owned: bool = False) -> None:
        self.url = connection.url
        self.app = app
        self.connection = connection
        self.ready_within = ready_within
        self._owned = owned
        self._errors: list[Any] = []
        self.admin = Admin(shared_options(connection), self._errors.append)
        self.producer = Producer(producer_options(connection))
        self._sinks: dict[str, Sink] = {}
        self._reached = False

    async def open(self) -> None:
        """Wait until a broker answers. Raises as `Broker.open` says."""
        if not self._reached:
            config = self._reader_options()
            await asyncio.to_thread(first_token, config, self.url)
            self.producer.open()
            await asyncio.to_thread(try_consumer, config, self.url)
            await reach(self.admin, self._errors, self.url, seconds=self.ready_within)
            self._reached = True
            del self._errors[:]

    # Sources

    def channel(self, channel: str, binding: Binding) -> Source:
        """The topic of that name, with the group ``<app>__<handler>``."""
        return self._source(
            [channel], binding, group=binding.durable, start=binding.start, shape=self._channel_shape(), guarded=True
        )

    def topic(self, topic: Topic, binding: Binding) -> KafkaSource:
        """The source of a declared topic."""
        check_options(topic.options, f"handler {binding.handler!r}: {topic!r}")
        return self._source(
            [topic.topic],
            binding,
            group=topic.group or binding.durable,
            start=binding.start if topic.start is None else topic.start,
            shape=None if topic.is_pattern else self._declared_shape(topic),
            options=topic.options,
            guarded=topic.group is None and not topic.is_pattern,
        )

    def _source(
        self,
        topics: list[str],
        binding: Binding,
        *,
        group: str,
        start: Any,
        shape: Shape | None,
        options: Mapping[str, str] | None = None,
        kind: type[KafkaSource] = KafkaSource,
        guarded: bool = False,
    ) -> KafkaSource:
        prepare = self._prepare(topics[0], shape)

        async def prepare_guarded() -> None:
            await prepare()
            await asyncio.to_thread(guard_rename, self.admin, topics[0], binding)

        return kind(
            f"kafka:{topics[0]}",
            topics,
            binding=binding,
            admin=self.admin,
            config=consumer_options(self.connection, options or {}, group=group),
            start=parse_start(start, f"handler {binding.handler!r}"),
            prepare=prepare_guarded if guarded else prepare,
            finish=self._finish,
        )

    def _channel_shape(self) -> Shape:
        return Shape(
            default_partitions=self.connection.number(PARTITIONS, CHANNEL_PARTITIONS),
            default_replicas=self.connection.number(REPLICATION, -1),
        )

    def _declared_shape(self, topic: Topic) -> Shape:
        return Shape(
            partitions=topic.partitions,
            replicas=topic.replication,
            config=topic.config,
            default_partitions=self.connection.number(PARTITIONS, CHANNEL_PARTITIONS),
            default_replicas=self.connection.number(REPLICATION, -1),
            create=topic.create,
        )

    def _prepare(self, topic: str, shape: Shape | None) -> Callable[[], Any]:
        async def prepare() -> None:
            await self.open()
            if shape is not None:
                await ensure(self.admin, topic, shape, seconds=self.ready_within)

        return prepare

    async def _finish(self) -> None:
        """A source was closed."""
        if self._owned:
            await self.close()

    # Sinks

    def sink(self, channel: str) -> Sink:
        sink = self._sinks.get(channel)
        if sink is None:
            sink = KafkaSink(channel, self.producer, self._prepare(channel, self._channel_shape()))
            self._sinks[channel] = sink
        return sink

    def topic_sink(self, topic: Topic) -> KafkaSink:
        """The sink of a declared topic."""
        return KafkaSink(
            topic.topic,
            self.producer,
            self._prepare(topic.topic, self._declared_shape(topic)),
            tombstones=topic.tombstones,
            forward_key=topic.forward_key,
            finish=self._finish,
        )

    # Dead letters, replays, small records

    def _own_shape(self, config: Mapping[str, str], partitions: int = 1) -> Shape:
        """A topic of ours: made as we need it, and used as it is where it exists."""
        replicas = self.connection.number(REPLICATION, -1)
        return Shape(default_partitions=partitions, default_replicas=replicas, default_config=config)

    def _replay_shape(self) -> Shape:
        """Whatever size a topic took, its replay takes: as much as the producer sends."""
        largest = producer_options(self.connection)["message.max.bytes"]
        return self._own_shape({"max.message.bytes": largest}, REPLAY_PARTITIONS)

    def _reader_options(self) -> dict[str, Any]:
        return consumer_options(self.connection, {}, group="headrace-reader") | {"auto.offset.reset": "earliest"}

    def dead_letters(self, app: str) -> DeadLetterStore:
        """The compacted topic ``headrace.<app>.dead-letters``."""
        from headrace.kafka.dead_letters import CONFIG, KafkaDeadLetters, dead_letter_topic, fetch_original

        reader = self._reader_options()
        return KafkaDeadLetters(
            app,
            producer=self.producer,
            config=reader,
            transactional=producer_options(self.connection),
            prepare=self._prepare(dead_letter_topic(app), self._own_shape(CONFIG)),
            original=lambda letter: fetch_original(reader, letter),
        )

    def replays(self, binding: Binding) -> Source:
        """The handler's replay topic."""
        from headrace.kafka.replays import ReplaySource, replay_topic

        topic = replay_topic(binding.app, binding.handler)
        return self._source(
            [topic],
            binding,
            group=f"{binding.durable}__replay",
            start="earliest",
            shape=self._replay_shape(),
            # It is nearly always empty: ask seldom.
            options={"fetch.wait.max.ms": "5000"},
            kind=ReplaySource,
        )

    async def replay(self, letter: DeadLetter) -> None:
        """See `headrace.engine.broker.Broker.replay`.

        Raises:
            InvalidEvent: the letter holds no event. PublishFailed: the broker refused it. StoreUnavailable: no answer.
        """
        from headrace.kafka.replays import replay_record, replay_topic

        record = replay_record(letter)
        topic = replay_topic(letter.app, letter.handler)
        await self._prepare(topic, self._replay_shape())()
        (answer,) = await self.producer.publish(topic, [record])
        if isinstance(answer, PublishFailed) and answer.transient:
            raise StoreUnavailable(f"the replay of {letter.id} is not confirmed: {answer}") from answer
        if isinstance(answer, Exception):
            raise answer

    def checkpoints(self, app: str) -> Checkpoints | None:
        """None: a Kafka source commits; others keep theirs in the SQL store."""
        return None

    def suspects(self, app: str) -> Suspects:
        """The compacted topic ``headrace.<app>.suspects``."""
        from headrace.kafka.suspects import CONFIG, KafkaSuspects, suspects_topic

        return KafkaSuspects(
            app,
            producer=self.producer,
            config=self._reader_options(),
            prepare=self._prepare(suspects_topic(app), self._own_shape(CONFIG)),
        )

    async def inspect(self, bindings: list[tuple[str | Declaration, Binding]]) -> list[Finding]:
        """What is amiss at the cluster, in words; nothing is created."""
        from headrace.kafka.inspection import inspect

        await self.open()
        channels = [(source, binding) for source, binding in bindings if isinstance(source, str)]
        return await asyncio.to_thread(inspect, self.admin, self.app, channels)

    def tail(self, channels: Sequence[str]) -> AsyncIterator[tuple[str, Event]]:
        """Channel and event of what comes from now on, of all channels where none is named; see `headrace.kafka.tail`."""
        from headrace.kafka.tail import follow

        config = consumer_options(self.connection, {}, group="headrace-tail") | {"auto.offset.reset": "latest"}
        return follow(self.admin, config, channels)

    async def close(self) -> None:
        """Wait for outstanding publishes, for a moment: who waits for one has been waited for before."""
        await self.producer.close(_OUTSTANDING)
