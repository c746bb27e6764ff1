"""Publishing: confirmed, in order, keyed as other producers key, and patient."""

import asyncio
from typing import Any

import pytest

from headrace.cloudevents import kafka as binding
from headrace.engine.sink import Publication, Published
from headrace.errors import ConfigurationError, InvalidEvent, PublishFailed
from headrace.event import Event
from headrace.kafka import Topic
from headrace.kafka.producer import Producer, Record
from tests.kafka.harness import Harness, until


def event(number: int = 0, data: Any = b"{}") -> Event:
    return Event("order.created", "/shop", data, id=str(number))


async def test_a_channel_is_created_and_every_publish_is_confirmed_with_its_place(at: Harness) -> None:
    sink = at.broker.sink(at.topic)
    await sink.open()
    results = await sink.publish([Publication(event(n), f"k{n % 5}") for n in range(500)])
    assert all(isinstance(result, Published) for result in results)
    places = [result.position for result in results if isinstance(result, Published)]
    assert len(set(places)) == 500
    facts = (await asyncio.to_thread(at.broker.admin.topics, [at.topic]))[at.topic]
    assert facts is not None
    assert facts.partitions == 12
    records = await at.raw(count=500)
    assert {f"{record.partition()}/{record.offset()}" for record in records} == set(places)


async def test_the_key_is_the_record_key_and_the_partitionkey_and_keeps_order(at: Harness) -> None:
    sink = at.broker.sink(at.topic)
    await sink.open()
    await asyncio.gather(
        *(sink.publish([Publication(event(n), "alice") for n in range(m, m + 20)]) for m in range(0, 200, 20))
    )
    records = await at.raw(count=200)
    assert {record.key() for record in records} == {b"alice"}
    assert len({record.partition() for record in records}) == 1
    found = [binding.decode(record.headers(), record.value())[0] for record in records]
    assert [int(e.id) for e in found] == list(range(200))
    assert {e["partitionkey"] for e in found} == {"alice"}


@pytest.mark.parametrize(
    ("key", "hash"),
    # Reference values of Apache Kafka's own murmur2 (clients/…/UtilsTest).
    [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536)],
)
async def test_a_key_goes_where_a_java_producer_puts_it(at: Harness, key: str, hash: int) -> None:
    await at.make_topic(7)
    sink = at.broker.sink(at.topic)
    (result,) = await sink.publish([Publication(event(), key)])
    assert isinstance(result, Published)
    assert int(result.position.split("/")[0]) == (hash & 0x7FFFFFFF) % 7


async def test_absent_data_is_structured_and_a_tombstone_only_where_asked_for(at: Harness) -> None:
    await at.make_topic()
    plain = at.broker.sink(at.topic)
    tombstones = Topic(at.topic, tombstones=True).sink(at.broker)
    await plain.publish([Publication(event(1, None), "k")])
    await tombstones.publish([Publication(event(2, None), "k"), Publication(event(3, None))])
    structured, tombstone, unkeyed = await at.raw(count=3)
    assert binding.decode(structured.headers(), structured.value())[0].data is None
    assert structured.value().startswith(b"{")
    assert tombstone.value() is None
    assert tombstone.key() == b"k"
    assert dict(tombstone.headers())["ce_id"] == b"2"
    assert unkeyed.value().startswith(b"{"), "without a key a null value deletes nothing"


async def test_a_forwarded_partitionkey_becomes_the_record_key_only_on_request(at: Harness) -> None:
    await at.make_topic()
    forwarded = event(1).replace(partitionkey="alice")
    await at.broker.sink(at.topic).publish([Publication(forwarded)])
    await Topic(at.topic, forward_key=True).sink(at.broker).publish([Publication(forwarded)])
    first, second = await at.raw(count=2)
    assert first.key() is None
    assert second.key() == b"alice"


async def test_one_that_is_too_large_fails_alone_and_for_good(at: Harness) -> None:
    await at.make_topic()
    results = await at.broker.sink(at.topic).publish(
        [Publication(event(1)), Publication(event(2, b"x" * 2_000_000)), Publication(event(3))]
    )
    assert isinstance(results[0], Published)
    assert isinstance(results[2], Published)
    assert isinstance(results[1], PublishFailed)
    assert not results[1].transient
    assert "max.message.bytes" in str(results[1])


async def test_one_that_cannot_be_encoded_fails_alone(at: Harness) -> None:
    await at.make_topic()
    results = await at.broker.sink(at.topic).publish([Publication(event(1, object())), Publication(event(2))])
    assert isinstance(results[0], InvalidEvent)
    assert isinstance(results[1], Published)


async def test_a_full_queue_is_back_pressure_and_keeps_the_order_of_calls(node: Any, app_name: str) -> None:
    at = Harness(node.url, app_name, {"queue.buffering.max.messages": "50"})
    await at.make_topic()
    sink = at.broker.sink(at.topic)
    calls = [sink.publish([Publication(event(n), "k") for n in range(m, m + 120)]) for m in range(0, 1200, 120)]
    results = [result for call in await asyncio.gather(*calls) for result in call]
    assert all(isinstance(result, Published) for result in results)
    records = await at.raw(count=1200)
    assert [int(dict(record.headers())["ce_id"]) for record in records] == list(range(1200))
    await at.close()


async def test_a_publisher_that_gives_up_does_not_hold_up_the_others(node: Any, app_name: str) -> None:
    at = Harness(node.url, app_name, {"queue.buffering.max.messages": "10"})
    await at.make_topic()
    sink = at.broker.sink(at.topic)
    first = asyncio.ensure_future(sink.publish([Publication(event(n)) for n in range(500)]))
    second = asyncio.ensure_future(sink.publish([Publication(event(n)) for n in range(500)]))
    third = asyncio.ensure_future(sink.publish([Publication(event(9))]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second.cancel()
    assert len(await first) == 500
    assert isinstance((await third)[0], Published)
    await at.close()


async def test_hop_headers_stand_beside_the_event(at: Harness) -> None:
    await at.make_topic()
    await at.broker.sink(at.topic).publish([Publication(event(1), headers=[("traceparent", "00-1-2-01")])])
    (record,) = await at.raw()
    assert dict(record.headers())["traceparent"] == b"00-1-2-01"
    assert "traceparent" not in binding.decode(record.headers(), record.value())[0].attributes


async def test_closing_waits_for_what_is_outstanding(at: Harness) -> None:
    await at.make_topic()
    publishing = asyncio.ensure_future(at.broker.sink(at.topic).publish([Publication(event(n)) for n in range(50)]))
    await asyncio.sleep(0)  # they are handed over in its first step
    await at.broker.producer.close(10.0)
    assert all(isinstance(result, Published) for result in await publishing)
    (late,) = await at.broker.sink(at.topic).publish([Publication(event(1))])
    assert isinstance(late, PublishFailed)


async def test_closing_tells_publishers_that_wait_for_room_or_for_their_turn() -> None:
    producer = Producer({"bootstrap.servers": "127.0.0.1:9", "queue.buffering.max.messages": 10, "log_level": 0})
    record = Record(b"x", None)
    first = asyncio.ensure_future(producer.publish("t", [record] * 50))
    second = asyncio.ensure_future(producer.publish("t", [record]))
    await until(lambda: producer._room is not None and len(producer._turns) == 2)
    await producer.close(0.1)
    answers = [*await asyncio.wait_for(first, 10), *await asyncio.wait_for(second, 10)]
    assert len(answers) == 51
    assert all(isinstance(answer, PublishFailed) for answer in answers)
    assert "is closed" in str(answers[-1])
    assert producer._client is None


def test_a_pattern_is_no_sink() -> None:
    with pytest.raises(ConfigurationError, match="pattern"):
        Topic("^orders").sink(None)


def test_without_a_kafka_broker_a_topic_says_what_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="HEADRACE_BROKER=kafka"):
        Topic("orders").sink(None)
