"""Large input made to cost: memory stays within 20 times the input and 64 KiB, and nothing but InvalidEvent is raised."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from headrace import Event
from headrace.cloudevents import http, kafka, nats, sql
from headrace.errors import InvalidEvent, InvalidFilter

LEAST = b'{"specversion":"1.0","id":"1","source":"/","type":"t"'
HEADERS = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/"), ("ce-type", "t")]
MEGABYTE = 2**20


def members(size: int) -> bytes:
    """An event of so many bytes whose attributes are as small and as many as they can be."""
    text = b",".join(b'"%x":1' % number for number in range(0x1000, 0x1000 + size // 9))
    return LEAST + b"," + text + b"}"


INPUTS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "arrays in data": (Event.from_json, LEAST + b',"data":[' + b"[]," * (MEGABYTE // 3) + b"1]}"),
    "objects in data": (Event.from_json, LEAST + b',"data":[' + b"{}," * (MEGABYTE // 3) + b"1]}"),
    "depth in data": (Event.from_json, LEAST + b',"data":' + b"[" * MEGABYTE + b"]" * MEGABYTE + b"}"),
    "depth in an unknown member": (Event.from_json, LEAST + b',"never":' + b'{"a":' * (MEGABYTE // 5)),
    "a number without end": (Event.from_json, LEAST + b',"ext":' + b"9" * MEGABYTE + b"}"),
    "a number without end in data": (Event.from_json, LEAST + b',"data":' + b"9" * MEGABYTE + b"}"),
    "attributes of 64 KiB": (Event.from_json, members(60_000)),
    "attributes of a megabyte": (Event.from_json, members(MEGABYTE)),
    "a long attribute": (Event.from_json, LEAST + b',"ext":"' + b"a" * MEGABYTE + b'"}'),
    "a long name": (Event.from_json, LEAST + b',"' + b"a" * MEGABYTE + b'":1}'),
    "a long time": (Event.from_json, LEAST + b',"time":"2018-04-05T17:31:00.' + b"1" * MEGABYTE + b'Z"}'),
    "escapes": (Event.from_json, LEAST + b',"ext":"' + b"\\u00e9" * (MEGABYTE // 6) + b'"}'),
    "data_base64": (Event.from_json, LEAST + b',"data_base64":"' + b"AAAA" * (MEGABYTE // 4) + b'"}'),
    "a batch of numbers": (Event.from_json_batch, b"[" + b"1," * (MEGABYTE // 2) + b"1]"),
    "a batch of broken texts": (Event.from_json_batch, b"[" + b'"\xff",' * (MEGABYTE // 4) + b"1]"),
    "a batch of broken events": (
        Event.from_json_batch,
        b"[" + b",".join([LEAST + b',"ext":"\xff"}'] * (MEGABYTE // 60)) + b"]",
    ),
    "a batch of nothing": (Event.from_json_batch, b"[" + b"{}," * (MEGABYTE // 3) + b"{}]"),
    "a batch of events": (Event.from_json_batch, b"[" + b",".join([LEAST + b"}"] * (MEGABYTE // 54)) + b"]"),
    "a batch of events with an unknown name": (
        Event.from_json_batch,
        b"[" + b",".join([LEAST + b',"9":1}'] * (MEGABYTE // 60)) + b"]",
    ),
    "percent escapes": (lambda value: http.decode([*HEADERS, ("ce-ext", value)], b""), "%C3%A9" * (MEGABYTE // 6)),
    "single percent escapes": (
        lambda value: http.decode([*HEADERS, ("ce-ext", value)], b""),
        "%41bc" * (MEGABYTE // 5),
    ),
    "stray percents": (lambda value: nats.decode([*HEADERS, ("ce-ext", value)], b"", tolerant=True), "%" * MEGABYTE),
    "a quoted string": (lambda value: http.decode([*HEADERS, ("ce-ext", f'"{value}"')], b""), '\\"' * (MEGABYTE // 2)),
    "an open quoted string": (
        lambda value: http.decode([*HEADERS, ("ce-ext", f'"{value}')], b""),
        "\\\\" * (MEGABYTE // 2),
    ),
    "a long content type": (
        lambda value: http.decode([*HEADERS, ("content-type", value)], b"x"),
        "a/b;" + "charset=" * (MEGABYTE // 8),
    ),
    "raw UTF-8": (lambda value: nats.decode([*HEADERS, ("ce-ext", value)], b"", tolerant=True), "é" * (MEGABYTE // 2)),
    "a Kafka header": (lambda value: kafka.decode([("ce_specversion", value)], b""), b"\xff" * MEGABYTE),
    "an expression of quotes": (sql.parse, "'" + "\\'" * 30_000 + "'"),
    "a long source": (
        lambda value: http.decode([*HEADERS[:2], HEADERS[3], ("ce-source", value)], b""),
        "a" * MEGABYTE + " ",
    ),
}


def refusal(decode: Callable[[Any], Any], value: Any) -> str:
    """The message with which an input is refused, or nothing."""
    try:
        decode(value)
    except (InvalidEvent, InvalidFilter) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", INPUTS)
def test_memory_stays_in_proportion(name: str) -> None:
    decode, value = INPUTS[name]
    tracemalloc.start(1)
    try:
        before = tracemalloc.get_traced_memory()[0]
        message = refusal(decode, value)
        used = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert used < 20 * len(value) + 64 * 1024
    assert len(message) < 1_000


def test_what_is_hostile_in_data_only_is_still_an_event() -> None:
    for name in (
        "arrays in data",
        "objects in data",
        "a number without end in data",
        "attributes of 64 KiB",
        "a long attribute",
    ):
        decode, value = INPUTS[name]
        assert isinstance(decode(value), Event)


def test_a_megabyte_of_attributes_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="members"):
        Event.from_json(members(MEGABYTE))


def test_a_large_event_with_few_attributes_is_read_whatever_its_data_looks_like() -> None:
    data = {f"k{number}": number for number in range(20_000)}
    event = Event.from_json(
        LEAST + b',"unseenname":1,"data":' + json.dumps(data, separators=(",", ":")).encode() + b"}"
    )
    assert event.data == data


def test_what_is_long_is_not_remembered() -> None:
    """Tables of what was met are bounded in number, and in the size of what they keep."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(60):
            long = f"{number}" + "a" * 50_000
            pairs = [*HEADERS[:2], ("ce-source", long), ("ce-type", "t")]
            http.decode([*pairs, ("content-type", f"a/{long}")], b"x")[0].data  # noqa: B018 - reads the content type
            http.decode([*pairs, (f"x-{long}", "1")], b"x")
            http.decode([*pairs, (f"ce-{long}", "1")], b"x")
            body = LEAST + b"," + f'"{long}":1'.encode() + b"}"
            http.decode([("content-type", f"application/cloudevents+json; a={long}")], body)
        assert tracemalloc.get_traced_memory()[0] - before < 2 * 2**20
    finally:
        tracemalloc.stop()
