"""Mutated input for every decoder, and what each may do with it: a valid event, or `InvalidEvent`.

Everything follows from the seed. The bounds are on processor time, so that a busy machine does not fail a run.
"""

import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from headrace import Event
from headrace.cloudevents import filters, http, kafka, mqtt, nats, sql
from headrace.cloudevents.types import check_attributes
from headrace.errors import InvalidEvent, InvalidExpression, InvalidFilter

SECONDS = 0.050
MEMORY_FACTOR = 20
MEMORY_SPARE = 64 * 1024

Header = tuple[bytes, bytes]


class Message(NamedTuple):
    """One input: headers and a body, or a body alone."""

    headers: tuple[Header, ...]
    body: bytes

    @property
    def size(self) -> int:
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)


class Order(msgspec.Struct):
    id: str
    amount: float


_EVENTS = [
    Event(type="order.created", source="/shop", id="1", data={"id": "o1", "amount": 12.5}, subject="a €"),
    Event(
        type="t", source="https://example.com/a?b#c", id="2", time="2018-04-05T17:31:00.123456789+02:00", n=5, flag=True
    ),
    Event(type="t", source="/", id="3", data=b"\x00\x01\xff", datacontenttype="application/octet-stream", blob=b"\x00"),
    Event(type="t", source="/", id="4", data="Zürich", datacontenttype="text/plain; charset=utf-8", dataschema="a:b"),
    Event(
        type="t",
        source="/",
        id="5",
        data='{"a":1}',
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
]

TOKENS = [
    *(
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"null",
        b"true",
        b"NaN",
        b"1e999",
        b"-0",
        b"1.0",
        b"\x00",
        b"\x7f",
    ),
    *(
        b"\xff",
        b"\xc0\xa0",
        b"\xed\xa0\x80",
        b"\xef\xbf\xbf",
        b"\xef\xbb\xbf",
        b"\\ud800",
        b"\\u0000",
        b"%",
        b"%zz",
        b"%C0%A0",
    ),
    *(
        b"%00",
        b"%41",
        b"9" * 40,
        b"2147483648",
        b"data",
        b"data_base64",
        b"ce-",
        b"ce_",
        b"specversion",
        b"datacontenttype",
    ),
    *(
        b"application/cloudevents+json",
        b"application/cloudevents-batch+json",
        b"application/cloudevents+avro",
        b"; charset=utf-16",
    ),
    *(
        b"charset=idna",
        b"content-type",
        b"[" * 40,
        b'{"a":' * 20,
        b"=",
        b"AAE=",
        b"60Z",
        b"+24:00",
        b" ",
        b"\r\n",
        "é😀".encode(),
    ),
    *(b"NOT ", b" LIKE ", b" IN (", b"'", b"EXISTS ", b"--", b"2147483647", b" AND ", b"LENGTH(", b"/0"),
]

EXPRESSIONS = [
    b"type LIKE 'order.%' AND EXISTS subject AND INT(n) > 10",
    b"(id = 'a' OR flag) AND n IN (1, '2', TRUE) XOR NOT missing",
    b'SUBSTRING(CONCAT_WS(\'-\', type, id), -3, 2) <> "x\\"y" OR 4-1 * -(2 % 3) / 5 <= ABS(-1)',
]


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def messages(binding: Any) -> list[Message]:
    """Messages of a binding that are right, in each of its modes."""
    found = []
    for event in _EVENTS:
        for headers, body in (binding.binary(event), binding.structured(event)):
            found.append(Message(tuple((_as_bytes(name), _as_bytes(value)) for name, value in headers), body or b""))
    return found


def in_str(headers: Sequence[Header]) -> list[tuple[Any, Any]]:
    """Headers as libraries hand them over that decode them."""
    return [(name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in headers]


def in_kafka(headers: Sequence[Header]) -> list[tuple[Any, Any]]:
    """Headers as clients of Kafka hand them over."""
    return [(name.decode("latin-1"), value) for name, value in headers]


class Target(NamedTuple):
    """A decoder with the inputs that it starts from."""

    name: str
    run: Callable[[Message], list[Event]]
    seeds: list[Message]
    configured: bool = False
    """Its input is part of an app, not of a message."""


def targets() -> list[Target]:
    """Every decoder there is."""
    in_json = [Message((), event.to_json()) for event in _EVENTS]
    batch = [Message((), http.batch(_EVENTS[:3])[1]), Message((), b"[]")]
    batched = Message(((b"content-type", b"application/cloudevents-batch+json"),), http.batch(_EVENTS)[1])
    return [
        Target("JSON", lambda message: [Event.from_json(message.body)], in_json),
        Target("JSON batch", lambda message: Event.from_json_batch(message.body), batch),
        Target("HTTP", lambda message: http.decode(message.headers, message.body), [*messages(http), batched]),
        Target(
            "HTTP tolerant",
            lambda message: http.decode(in_str(message.headers), message.body, tolerant=True),
            messages(http),
        ),
        Target("Kafka", lambda message: kafka.decode(in_kafka(message.headers), message.body), messages(kafka)),
        Target("NATS", lambda message: nats.decode(in_str(message.headers), message.body), messages(nats)),
        Target(
            "NATS tolerant", lambda message: nats.decode(message.headers, message.body, tolerant=True), messages(nats)
        ),
        Target("MQTT", lambda message: mqtt.decode(in_str(message.headers), message.body), messages(mqtt)),
        Target(
            "MQTT tolerant",
            lambda message: mqtt.decode(in_str(message.headers), message.body, tolerant=True),
            messages(mqtt),
        ),
        Target("CESQL", _expression, [Message((), expression) for expression in EXPRESSIONS], True),
        Target(
            "filters",
            _filters,
            [Message((), b'[{"all":[{"prefix":{"type":"a"}},{"not":{"sql":"n > 5"}}]},{"exact":{"id":"1"}}]')],
            True,
        ),
    ]


def _expression(message: Message) -> list[Event]:
    expression = sql.parse(message.body.decode("utf-8", "replace"))
    for event in _EVENTS:
        result = expression.evaluate(event)
        assert isinstance(result.value, (bool, int, str))
    return []


def _filters(message: Message) -> list[Event]:
    try:
        chosen = msgspec.json.decode(message.body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return []
    matches = filters.compile(chosen)
    for event in _EVENTS:
        assert matches(event) in (True, False)
    return []


def mutated(source: random.Random, message: Message, seeds: Sequence[Message]) -> Message:
    """One to four changes: to the body, to a header, to the list of headers."""
    headers, body = list(message.headers), message.body
    for _ in range(source.randint(1, 4)):
        choice = source.random()
        if not headers or choice < 0.4:
            other = seeds[source.randrange(len(seeds))].body
            body = _mutated_bytes(source, body, other)
        elif choice < 0.8:
            index = source.randrange(len(headers))
            name, value = headers[index]
            if source.random() < 0.3:
                headers[index] = (_mutated_bytes(source, name, value), value)
            else:
                headers[index] = (name, _mutated_bytes(source, value, name))
        elif choice < 0.9:
            headers.insert(source.randrange(len(headers) + 1), headers[source.randrange(len(headers))])
        else:
            del headers[source.randrange(len(headers))]
    return Message(tuple(headers), body)


def _mutated_bytes(source: random.Random, text: bytes, other: bytes) -> bytes:
    start = source.randint(0, len(text))
    end = min(len(text), start + source.randint(0, 8))
    choice = source.randrange(7)
    if choice == 0:
        return text[:start] + source.choice(TOKENS) + text[start:]
    if choice == 1:
        return text[:start] + source.choice(TOKENS) + text[end:]
    if choice == 2:
        return text[:start] + text[end:]
    if choice == 3 and text:
        index = min(start, len(text) - 1)
        return text[:index] + bytes([text[index] ^ 1 << source.randrange(8)]) + text[index + 1 :]
    if choice == 4:
        return text[:start] + other[source.randint(0, len(other)) :][:40] + text[start:]
    if choice == 5:
        return source.choice((b"", b"", other, source.choice(TOKENS)))
    return text[:end] + text[start:end] * source.randint(1, 20) + text[end:]


def judge(event: Event) -> None:
    """An event that a decoder let pass must be one, in every respect that can be asked for."""
    check_attributes(event._attributes)
    for question in (lambda: event.time, lambda: event.data, lambda: event.raw, lambda: event.data_as(Order)):
        try:
            question()
        except InvalidEvent:
            continue
    assert Event.from_json(event.to_json()) == event


def run(seed: int, count: int, *, measured: bool) -> Counter[str]:
    """Put so many mutated inputs through the decoders, in turn; returns what became of them.

    Args:
        measured: also hold each decoder to its time and memory.
    """
    source = random.Random(seed)
    every = targets()
    outcomes: Counter[str] = Counter()
    if measured:
        tracemalloc.start(1)
    try:
        for number in range(count):
            target = every[number % len(every)]
            message = mutated(source, source.choice(target.seeds), target.seeds)
            place = f"seed {seed}, input {number}, {target.name}: {message!r}"
            try:
                events = _held(target, message, place) if measured else target.run(message)
            except (InvalidEvent, InvalidExpression, InvalidFilter):
                outcomes["refused"] += 1
                continue
            except BaseException as error:
                error.add_note(place)
                raise
            outcomes["read"] += 1
            for event in events:
                try:
                    judge(event)
                except BaseException as error:
                    error.add_note(place)
                    raise
    finally:
        if measured:
            tracemalloc.stop()
    return outcomes


def _held(target: Target, message: Message, place: str) -> list[Event]:
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    started = time.thread_time()
    try:
        return target.run(message)
    finally:
        taken = time.thread_time() - started
        used = tracemalloc.get_traced_memory()[1] - before
        assert taken < SECONDS, f"{taken * 1000:.0f} ms: {place}"
        # Expressions and filters come from the app, not from the wire, and are read once: their memory is not bounded.
        assert target.configured or used < MEMORY_FACTOR * message.size + MEMORY_SPARE, f"{used} bytes: {place}"
