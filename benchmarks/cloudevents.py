"""CloudEvents decoding and filtering beside the official Python SDK, in one run.

    python -m benchmarks.cloudevents [--rounds N]

Rounds of ours and the SDK's are interleaved, so that a busy machine slows both; figures are medians, in microseconds of
processor time a call, and the ratio is the median of the rounds' ratios. The SDK is given the same message and reads
the same: attributes and data (it has no NATS binding and no filters). Before anything is timed, both readers must agree.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import timeit
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import msgspec
from cloudevents.core.bindings import http as sdk_http
from cloudevents.core.bindings import kafka as sdk_kafka

from headrace.cloudevents import filters, http, json, kafka, nats, sql
from headrace.cloudevents.data import decoder
from headrace.event import Event

STRUCTURED = (
    b'{"specversion":"1.0","type":"order.created","source":"/shop/orders","id":"A234-1234-1234",'
    b'"time":"2018-04-05T17:31:00Z","subject":"order-17","datacontenttype":"application/json",'
    b'"data":{"id":"o1","customer":"c1","amount":12.5}}'
)
BODY = b'{"id":"o1","customer":"c1","amount":12.5}'
ATTRIBUTES = {
    "specversion": "1.0",
    "id": "A234-1234-1234",
    "source": "/shop/orders",
    "type": "order.created",
    "time": "2018-04-05T17:31:00Z",
}

HTTP_HEADERS = [(f"ce-{name}", value) for name, value in ATTRIBUTES.items()] + [("content-type", "application/json")]
HTTP_BYTES = [(name.encode(), value.encode()) for name, value in HTTP_HEADERS]
KAFKA_HEADERS = [(f"ce_{name}", value.encode()) for name, value in ATTRIBUTES.items()] + [
    ("content-type", b"application/json")
]
HTTP_STRUCTURED = [(b"content-type", b"application/cloudevents+json")]
NATS_HEADERS = [(f"ce-{name}", value) for name, value in ATTRIBUTES.items()] + [
    ("ce-datacontenttype", "application/json")
]

TERMS = [{"exact": {"source": "/shop/orders"}}, {"prefix": {"type": "order."}}, {"suffix": {"subject": "-17"}}]
EXPRESSION = "type LIKE 'order.%' AND EXISTS subject AND INT(amount) > 10"


class Order(msgspec.Struct):
    id: str
    customer: str
    amount: float


def rows() -> list[tuple[str, Callable[[], Any], Callable[[], Any] | None]]:
    typed = decoder(Order)
    sdk_structured = sdk_http.HTTPMessage({"content-type": "application/cloudevents+json"}, STRUCTURED)
    sdk_binary = sdk_http.HTTPMessage(dict(HTTP_HEADERS), BODY)
    sdk_record = sdk_kafka.KafkaMessage(dict(KAFKA_HEADERS), None, BODY)
    event = Event(type="order.created", source="/shop/orders", subject="order-17", id="1", amount=17)
    received = nats.decode_binary([*NATS_HEADERS, ("ce-subject", "order-17"), ("ce-amount", "17")], BODY)
    matches = filters.compile(TERMS)
    evaluates = filters.compile([{"sql": EXPRESSION}])
    expression = sql.parse(EXPRESSION)
    assert typed(json.decode(STRUCTURED)) == Order("o1", "c1", 12.5)
    assert sdk_http.from_http_event(sdk_structured).get_data() == json.decode(STRUCTURED).data
    assert sdk_http.from_http_event(sdk_binary).get_data() == http.decode_binary(HTTP_BYTES, BODY).data
    assert sdk_kafka.from_kafka_event(sdk_record).get_data() == kafka.decode_binary(KAFKA_HEADERS, BODY).data
    assert all((matches(event), evaluates(event), evaluates(received)))
    return [
        (
            "structured JSON to a typed argument",
            lambda: typed(json.decode(STRUCTURED)),
            lambda: sdk_http.from_structured_event(sdk_structured).get_data(),
        ),
        (
            "structured JSON, from_json() and data_as()",
            lambda: Event.from_json(STRUCTURED).data_as(Order),
            lambda: sdk_http.from_structured_event(sdk_structured).get_data(),
        ),
        (
            "structured JSON over HTTP, http.decode()",
            lambda: http.decode(HTTP_STRUCTURED, STRUCTURED),
            lambda: sdk_http.from_http_event(sdk_structured),
        ),
        ("structured JSON, attributes only", lambda: json.decode(STRUCTURED), None),
        (
            "HTTP binary",
            lambda: http.decode_binary(HTTP_BYTES, BODY),
            lambda: sdk_http.from_binary_event(sdk_binary),
        ),
        (
            "HTTP binary, http.decode()",
            lambda: http.decode(HTTP_BYTES, BODY),
            lambda: sdk_http.from_http_event(sdk_binary),
        ),
        (
            "HTTP binary to a typed argument",
            lambda: typed(http.decode_binary(HTTP_BYTES, BODY)),
            lambda: sdk_http.from_binary_event(sdk_binary).get_data(),
        ),
        (
            "Kafka binary",
            lambda: kafka.decode_binary(KAFKA_HEADERS, BODY),
            lambda: sdk_kafka.from_binary_event(sdk_record),
        ),
        (
            "Kafka binary, kafka.decode()",
            lambda: kafka.decode(KAFKA_HEADERS, BODY),
            lambda: sdk_kafka.from_kafka_event(sdk_record),
        ),
        (
            "Kafka binary to a typed argument",
            lambda: typed(kafka.decode_binary(KAFKA_HEADERS, BODY)),
            lambda: sdk_kafka.from_binary_event(sdk_record).get_data(),
        ),
        ("NATS binary", lambda: nats.decode_binary(NATS_HEADERS, BODY), None),
        ("NATS binary, nats.decode()", lambda: nats.decode(NATS_HEADERS, BODY), None),
        ("NATS binary to a typed argument", lambda: typed(nats.decode_binary(NATS_HEADERS, BODY)), None),
        ("Event._trusted", lambda: Event._trusted(ATTRIBUTES, BODY), None),
        ("event to structured JSON", received.to_json, None),
        ("event to NATS binary", lambda: nats.binary(received), None),
        ("filter: exact, prefix, suffix", lambda: matches(received), None),
        ("filter: sql, amount an Integer", lambda: evaluates(event), None),
        ("filter: sql, amount a header", lambda: evaluates(received), None),
        ("sql: evaluate() to a Result", lambda: expression.evaluate(received), None),
    ]


def measured(call: Callable[[], Any], number: int) -> float:
    """One round, in microseconds of processor time a call."""
    return timeit.timeit(call, timer=time.thread_time, number=number) / number * 1e6


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=25)
    arguments.add_argument("--number", type=int, default=10_000)
    options = arguments.parse_args()
    print(f"Python {platform.python_version()}, msgspec {version('msgspec')}, cloudevents {version('cloudevents')}")
    print(f"{'':42} {'headrace':>9} {'sdk':>9} {'ratio':>7}   µs a call, medians of {options.rounds} rounds")
    for name, ours, theirs in rows():
        mine, sdk = [], []
        for _ in range(options.rounds):
            # What calling the lambda costs is measured in the same round, and taken off.
            empty = measured(_nothing, options.number)
            mine.append(measured(ours, options.number) - empty)
            if theirs is not None:
                sdk.append(measured(theirs, options.number // 5) - empty)
        line = f"{name:42} {statistics.median(mine):9.2f}"
        if sdk:
            ratio = statistics.median([there / here for here, there in zip(mine, sdk, strict=True)])
            line += f" {statistics.median(sdk):9.2f} {ratio:6.1f}×"
        print(line)


def _nothing() -> None:
    pass


if __name__ == "__main__":
    main()
