"""The bare loops on Kafka that Headrace is held against: librdkafka's consumer and producer as fast as they go from Python.

Each is what a careful user would write by hand without a framework, with the settings that measured best.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

CUSTOMERS = 1000
#: What the raw consumer loop measured best with; the client's default of ``fetch.queue.backoff.ms`` caps it at a fifth.
TUNED = {
    "fetch.queue.backoff.ms": "10",
    "queued.min.messages": "20000",
    "queued.max.messages.kbytes": "16384",
    "fetch.max.bytes": "16777216",
}
_group = itertools.count()


def create(bootstrap: str, topic: str, partitions: int) -> None:
    """Create a topic."""
    client = AdminClient({"bootstrap.servers": bootstrap})
    (future,) = client.create_topics([NewTopic(topic, partitions, 1)]).values()
    future.result(30)


def records(events: int, seed: int) -> Iterator[tuple[str, list[tuple[str, bytes]], bytes]]:
    """Key, headers and body of CloudEvents in binary mode."""
    numbers = random.Random(seed)
    for index in range(events):
        customer = f"c{numbers.randrange(CUSTOMERS)}"
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", b"%016x" % numbers.getrandbits(64)),
            ("ce_source", b"/shop/orders"),
            ("ce_type", b"order.created"),
            ("content-type", b"application/json"),
        ]
        yield customer, headers, b'{"id":"%d","customer":"%s","amount":%d.5}' % (index, customer.encode(), index % 90)


def produce_loop(bootstrap: str, topic: str, events: int, *, seed: int = 1) -> float:
    """Records a second, from the first call to the last delivery report, with a callback for each."""
    prepared = list(records(events, seed))
    producer: Any = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 5,
            "queue.buffering.max.messages": 200_000,
            "partitioner": "murmur2_random",
        }
    )
    confirmed = 0

    def report(error: Any, message: Any) -> None:
        nonlocal confirmed
        assert error is None, error
        confirmed += 1

    begun = time.perf_counter()
    for number, (key, headers, body) in enumerate(prepared):
        while True:
            try:
                producer.produce(topic, body, key, on_delivery=report, headers=headers)
                break
            except BufferError:
                producer.poll(0.01)
        if number % 100 == 0:
            producer.poll(0)
    producer.flush(60)
    seconds = time.perf_counter() - begun
    assert confirmed == events, f"{confirmed} confirmed, {events} expected"
    return events / seconds


def consume_loop(bootstrap: str, topic: str, events: int) -> float:
    """Records a second, from the first to the last, with key, value and headers read; no commits."""
    consumer: Any = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"raw{time.time_ns()}n{next(_group)}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            **TUNED,
        }
    )
    consumer.subscribe([topic])
    seen = before = 0
    first = 0.0
    while seen < events:
        for message in consumer.consume(2000, 1.0):
            assert message.error() is None, message.error()
            message.key()
            message.value()
            message.headers()
            seen += 1
        if not before and seen:
            before, first = seen, time.perf_counter()
    seconds = time.perf_counter() - first
    consumer.close()
    assert seen == events, f"{seen} read, {events} expected"
    return (events - before) / seconds
