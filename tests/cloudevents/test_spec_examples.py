"""The examples of the documents themselves, read as they stand there (placeholders filled in)."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from headrace import Event
from headrace.cloudevents import http, kafka, mqtt, nats
from headrace.cloudevents.webhook import access_token, validation
from tests.cloudevents.vectors import vectors

EXAMPLES: Path = vectors("spec-examples")


def filled(name: str) -> str:
    text = (EXAMPLES / name).read_text()
    text = re.sub(r" +\.\.\. further attributes omitted \.\.\.\n", '"source": "/mycontext", "id": "1234",\n', text)
    text = re.sub(r"\.\.\. application data \.\.\.", '"a": 1', text)
    return re.sub(r" +\.{3,} *further attributes \.\.\.\n", "", text).replace("... base64 encoded string ...", "AAE=")


def http_message(name: str) -> tuple[list[tuple[str, str]], bytes]:
    """A request or response, or a bare block of headers and a body."""
    head, _, body = filled(name).strip("\n").partition("\n\n")
    lines = [line for line in head.splitlines() if ": " in line]
    return [(line.split(": ", 1)[0], line.split(": ", 1)[1]) for line in lines], body.encode()


def record(name: str) -> tuple[list[tuple[str, str]], bytes]:
    """A message drawn in boxes, as the Kafka, NATS and MQTT documents do."""
    boxes = re.split(r"-{5,}(?: ([A-Za-z ]+) -{5,})?\n?", filled(name))
    parts = {str(title).strip().lower(): text for title, text in zip(boxes[1::2], boxes[2::2], strict=False) if title}
    headers = parts.get("headers") or parts.get("header") or parts.get("user properties") or ""
    pairs = [tuple(line.split(": ", 1)) for line in headers.strip().splitlines() if ": " in line]
    pairs += [("content-type", value) for value in re.findall(r"^Content Type: (.*)$", parts.get("publish", ""), re.M)]
    return [(name, value.strip('"')) for name, value in pairs], parts.get(
        "payload", parts.get("value", "")
    ).strip().encode()


def in_kafka(pairs: list[tuple[str, str]]) -> list[tuple[str, bytes]]:
    return [(name, value.encode()) for name, value in pairs]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.name)
def test_every_event_in_json_is_read_and_written_back(path: Path) -> None:
    members = json.loads(filled(path.name))
    if isinstance(members, list):
        events = Event.from_json_batch(filled(path.name).encode())
        assert len(events) == len(members)
        return
    if "specversion" not in members:
        assert path.name.startswith("subscriptions")
        return
    event = Event.from_json(filled(path.name).encode())
    written = json.loads(event.to_json())
    assert written == {name: value for name, value in members.items() if value is not None}


@pytest.mark.parametrize(
    ("structured", "binary"), [(f"json-{n:02}.json", f"json-{n + 1:02}.txt") for n in (1, 3, 5, 7, 9, 11)]
)
def test_json_and_its_http_equivalent_are_the_same_event(structured: str, binary: str) -> None:
    event = Event.from_json(filled(structured).encode())
    headers, body = http_message(binary)
    if body == b"...raw binary bytes...":
        body = b"\x00\x01"
    [other] = http.decode(headers, body)
    assert other == event
    written, sent = http.binary(event)
    assert {name.lower(): value for name, value in written} == dict(headers)
    assert sent == event.raw


@pytest.mark.parametrize("name", ["http-01.txt", "http-02.txt", "http-04.txt", "http-05.txt"])
def test_the_messages_of_the_http_document_are_read(name: str) -> None:
    [event] = http.decode(*http_message(name))
    assert event.type == "com.example.someevent"
    assert event.data == {"a": 1}


@pytest.mark.parametrize("name", ["http-07.txt", "http-08.txt"])
def test_the_batches_of_the_http_document_are_read(name: str) -> None:
    assert [event.type for event in http.decode(*http_message(name))] == [
        "com.example.someevent",
        "com.example.someotherevent",
    ]


@pytest.mark.parametrize("name", ["http-03.txt", "kafka-02.txt", "mqtt-02.txt"])
def test_the_content_types_of_the_documents_mean_structured(name: str) -> None:
    field, value = filled(name).strip().split(": ")
    for binding, header in (
        (http, (field, value)),
        (nats, (field, value)),
        (mqtt, (field.lower(), value)),
        (kafka, (field.lower(), value.encode())),
    ):
        assert binding.mode([header], b"") == "structured"
    field, value = filled("http-06.txt").strip().split(": ")
    assert http.mode([(field, value)], b"") == "batch"


def test_the_messages_of_the_kafka_document_are_read() -> None:
    pairs, value = record("kafka-01.txt")
    [event] = kafka.decode(in_kafka(pairs), value)
    assert (event.datacontenttype, event["time"], event.raw) == (
        "application/avro",
        "2018-04-05T03:56:24Z",
        b"... application data encoded in Avro ...",
    )
    pairs, value = record("kafka-03.txt")
    text = re.sub(rb"\{\s+\.\.\. application data encoded in XML \.\.\.\s+\}", b'"<a/>"', value)
    text = text.replace(b'"source": "/mycontext", "id": "1234",', b"")
    [event] = kafka.decode(in_kafka(pairs), text)
    assert (event.datacontenttype, event.data) == ("application/xml", "<a/>")


@pytest.mark.parametrize("name", ["nats-01.txt", "nats-02.txt"])
def test_the_messages_of_the_nats_document_are_read(name: str) -> None:
    [event] = nats.decode(*record(name))
    assert event.type == "com.example.someevent"
    assert event.data == {"a": 1}


@pytest.mark.parametrize("name", ["mqtt-01.txt", "mqtt-03.txt", "mqtt-04.txt"])
def test_the_messages_of_the_mqtt_document_are_read(name: str) -> None:
    pairs, payload = record(name)
    # The document's structured examples are not JSON: the time has a semicolon and neither it nor the id has quotes.
    payload = payload.replace(b"2018-04-05T03:56;24Z", b'"2018-04-05T03:56:24Z"').replace(
        b"1234-1234-1234,", b'"1234-1234-1234",'
    )
    payload = payload.replace(b'"source": "/mycontext", "id": "1234",', b"")
    [event] = mqtt.decode(pairs, payload)
    assert (event.id, event.datacontenttype, event.data) == (
        "1234-1234-1234",
        "application/json; charset=utf-8",
        {"a": 1},
    )


def test_the_headers_of_the_webhook_document_are_read() -> None:
    headers = [tuple(filled(f"webhook-0{n}.txt").strip().split(": ", 1)) for n in (3, 4, 5)]
    asked = validation(headers)  # type: ignore[arg-type]
    assert asked is not None
    assert (asked.origin, asked.rate) == ("eventemitter.example.com", 120)
    assert asked.callback == "https://example.com/confirm?id=12345&key=...base64..."
    _, *lines = filled("webhook-01.txt").strip().splitlines()
    assert access_token([tuple(line.split(": ", 1)) for line in lines]) == "mF_9.B5f-4.1JqM"  # type: ignore[misc]
    target = filled("webhook-02.txt").split()[1]
    assert access_token([], target.partition("?")[2]) == "mF_9.B5f-4.1JqM"


def test_the_tracing_example_is_an_event_with_a_trace() -> None:
    command = filled("ext-tracing-01.txt")
    pairs: list[Any] = [tuple(re.split(r": +", header, maxsplit=1)) for header in re.findall(r"-H '([^']+)", command)]
    [event] = http.decode(pairs, b"")
    assert event["traceparent"] == dict(pairs)["ce-traceparent"] != dict(pairs)["traceparent"]
