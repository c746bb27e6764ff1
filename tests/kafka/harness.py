"""What the Kafka tests do over and over: topics, raw records, sources that are read by hand, commits looked up."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition

from headrace.engine.broker import Binding
from headrace.engine.delivery import ACK, Delivery
from headrace.engine.source import Credit
from headrace.kafka import Topic
from headrace.kafka.broker import KafkaBroker, create
from headrace.kafka.partition import KafkaDelivery
from headrace.kafka.source import KafkaSource

MANY = Credit(1000, 1 << 28)


class Stub:
    """Stands for the engine's runner: which deliveries are parked, and which were voided."""

    def __init__(self) -> None:
        self.parking = self
        self.places: set[Delivery] = set()
        self.voided: list[Delivery] = []
        self.on_voided: Callable[[Delivery], None] | None = None

    def on_void(self, delivery: Delivery) -> None:
        self.voided.append(delivery)
        if self.on_voided is not None:
            self.on_voided(delivery)


class Reader:
    """A source read by hand."""

    def __init__(self, source: KafkaSource) -> None:
        self.source = source
        self.stub = Stub()
        self.got: list[KafkaDelivery] = []
        self.closed = False

    async def take(self, count: int, *, seconds: float = 30.0, credit: Credit = MANY) -> list[KafkaDelivery]:
        """At least ``count`` deliveries, marked as the engine would mark them."""
        taken: list[KafkaDelivery] = []
        async with asyncio.timeout(seconds):
            while len(taken) < count:
                batch = await self.source.fetch(credit)
                if not batch:
                    break
                for delivery in batch:
                    assert isinstance(delivery, KafkaDelivery)
                    delivery._runner = self.stub
                    taken.append(delivery)
        self.got += taken
        return taken

    async def nothing_for(self, seconds: float) -> None:
        """Nothing comes in that time: an absence can only be waited for."""
        try:
            batch = await asyncio.wait_for(self.source.fetch(MANY), seconds)
        except TimeoutError:
            return
        raise AssertionError(f"unexpected deliveries: {[numbers(batch)]}")

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self.source.settle(delivery, ACK)

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            await self.source.close()


def numbers(deliveries: Iterable[Any]) -> list[int]:
    """The values of records that `Harness.fill` wrote."""
    return [int(delivery.message.value()) for delivery in deliveries]


class Harness:
    """A broker object, a fresh topic name, and readers that are closed at the end."""

    def __init__(self, url: str, app: str, settings: Mapping[str, str] | None = None) -> None:
        self.url = url
        self.app = app
        self.bootstrap = url.removeprefix("kafka://")
        self.broker: KafkaBroker = create(url, app=app, settings=settings or {}, ready_within=15.0)
        self.readers: list[Reader] = []
        self.topic = f"{app}.events"
        self._producer: Any = None
        self._serial = itertools.count()

    def binding(self, handler: str = "bill", **changes: Any) -> Binding:
        values: dict[str, Any] = {
            "app": self.app,
            "handler": handler,
            "keyed": True,
            "concurrency": 64,
            "prefetch": Credit(256, 64 << 20),
            "parked": Credit(10_000, 64 << 20),
            "timeout": 30.0,
            "broker": self.broker,
            # Those that the tests use on one topic: none of them is another one renamed.
            "handlers": ("bill", "one", "two", "late", "all", "again"),
        }
        return Binding(**values | changes)

    async def reader(
        self,
        handler: str = "bill",
        *,
        topic: Topic | None = None,
        options: Mapping[str, str] | None = None,
        start: Any = None,
        **changes: Any,
    ) -> Reader:
        declared = topic or Topic(self.topic, options=options, start=start)
        source = declared.bind(self.binding(handler, **changes))
        assert isinstance(source, KafkaSource)
        reader = Reader(source)
        self.readers.append(reader)
        await source.open()
        return reader

    async def make_topic(self, partitions: int = 1, config: Mapping[str, str] | None = None, name: str = "") -> str:
        await self.broker.open()
        name = name or self.topic
        created = await asyncio.to_thread(
            self.broker.admin.create, name, partitions=partitions, replicas=1, config=dict(config or {})
        )
        assert created
        await until(lambda: self.facts(name))
        return name

    async def facts(self, name: str) -> bool:
        found = (await asyncio.to_thread(self.broker.admin.topics, [name]))[name]
        return found is not None and found.partitions > 0

    @property
    def producer(self) -> Any:
        """A plain producer: what other programs write."""
        if self._producer is None:
            self._producer = Producer(
                {
                    "bootstrap.servers": self.bootstrap,
                    "linger.ms": 5,
                    # Without it a batch that is sent again may land behind the next one.
                    "enable.idempotence": True,
                    "partitioner": "murmur2_random",
                    "log_level": 0,
                }
            )
        return self._producer

    def write(self, value: bytes | None, **record: Any) -> None:
        """One raw record; `delivered` waits for all of them."""
        topic = record.pop("topic", self.topic)
        while True:
            try:
                self.producer.produce(topic, value, **record)
                return
            except BufferError:
                self.producer.poll(0.05)

    def delivered(self) -> None:
        assert self.producer.flush(30) == 0

    def fill(self, count: int, *, keys: int = 0, partition: int | None = None, first: int = 0, topic: str = "") -> None:
        """Records whose values are numbers; with ``keys`` the key is k0, k1, … in turn."""
        for number in range(first, first + count):
            record: dict[str, Any] = {} if partition is None else {"partition": partition}
            if keys:
                record["key"] = f"k{number % keys}"
            self.write(b"%d" % number, topic=topic or self.topic, **record)
        self.delivered()

    async def committed(self, handler: str = "bill", topic: str = "") -> dict[int, tuple[int, str]]:
        """Offset and metadata by partition."""
        name, admin = topic or self.topic, self.broker.admin
        facts = (await asyncio.to_thread(admin.topics, [name]))[name]
        assert facts is not None
        found = await asyncio.to_thread(admin.committed, f"{self.app}__{handler}", name, facts.partitions)
        return {number: commit for (_, number), commit in found.items()}

    async def move(self, offsets: Mapping[int, int], handler: str = "bill") -> None:
        """What ``kafka-consumer-groups --reset-offsets`` does; the group must be empty."""
        await self.leave({number: (offset, "") for number, offset in offsets.items()}, handler)

    async def leave(self, commits: Mapping[int, tuple[int, str]], handler: str = "bill") -> None:
        """Offset and metadata by partition, as a killed owner leaves them; the group must be empty."""
        group = f"{self.app}__{handler}"
        tps = [TopicPartition(self.topic, number, *commit) for number, commit in commits.items()]
        asked = self.broker.admin.client.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, tps)])
        await asyncio.to_thread(lambda: asked[group].result(10))

    async def remove_commits(self, handler: str = "bill") -> None:
        group = f"{self.app}__{handler}"
        asked = self.broker.admin.client.delete_consumer_groups([group])
        await asyncio.to_thread(lambda: asked[group].result(10))

    async def raw(self, topic: str = "", count: int = 1, isolation: str = "read_uncommitted") -> list[Any]:
        """The first records of a topic, as a plain consumer sees them."""

        def read() -> list[Any]:
            consumer = Consumer(
                {
                    "bootstrap.servers": self.bootstrap,
                    "group.id": f"raw{next(self._serial)}",
                    "auto.offset.reset": "earliest",
                    "isolation.level": isolation,
                    "log_level": 0,
                }
            )
            partitions = consumer.list_topics(topic or self.topic, timeout=10).topics[topic or self.topic].partitions
            consumer.assign([TopicPartition(topic or self.topic, number, 0) for number in partitions])
            found: list[Any] = []
            while len(found) < count:
                message = consumer.poll(10)
                assert message is not None, f"{len(found)} of {count} records"
                assert message.error() is None, message.error()
                found.append(message)
            consumer.close()
            return found

        return await asyncio.to_thread(read)

    async def close(self) -> None:
        await asyncio.gather(*(reader.close() for reader in self.readers))
        await self.broker.close()


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]], *, seconds: float = 30.0) -> None:
    """Ask until it is so."""
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if await answer if isinstance(answer, Awaitable) else answer:
                return
            await asyncio.sleep(0.02)
