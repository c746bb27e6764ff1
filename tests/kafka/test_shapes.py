"""Record headers read by known shapes: the same events as the binding's, whatever the records of a topic have in common."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cloudevents.kafka import read
from headrace.errors import InvalidEvent
from headrace.event import Event
from headrace.kafka import shapes
from headrace.kafka.shapes import decode

Headers = list[tuple[str, bytes | None]]


class Message(NamedTuple):
    """As much of a record as is read here."""

    pairs: Headers
    body: bytes

    def headers(self) -> Headers | None:
        return self.pairs or None

    def value(self) -> bytes:
        return self.body


#: Records of one kind after which its shape is known.
ENOUGH = shapes._ONE_IN * shapes._LOOKS


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_shapes", shapes._Shapes())


def order(number: int, **others: str) -> Headers:
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": f"order-{number}",
        "ce_source": "/shop/web",
        "ce_type": "order.created",
        "ce_time": f"2026-11-24T10:00:{number % 60:02}Z",
        "content-type": "application/json",
        "trace": f"t{number}",
        **others,
    }
    return [(name, value.encode()) for name, value in attributes.items()]


def expected(message: Message) -> object:
    """What the binding says of it."""
    try:
        event = read(message.pairs, message.body)
    except InvalidEvent as error:
        return str(error)
    return event and (list(event.attributes.items()), event.raw)


def the_same(*records: Headers, body: bytes = b"{}") -> None:
    messages = [Message(headers, body) for headers in records]
    found = [
        str(one) if isinstance(one, InvalidEvent) else one and (list(one.attributes.items()), one.raw)
        for one in decode(messages)
    ]
    assert found == [expected(message) for message in messages]


def known() -> int:
    return shapes._shapes._known


def fits_the_last(headers: Headers) -> bool:
    return shapes._shapes.last.read(iter([(headers, b"{}")]), []) is None


def test_a_kind_of_record_that_comes_again_is_known_and_read_the_same() -> None:
    the_same(*(order(number) for number in range(2 * ENOUGH)))
    assert known() == 1
    assert fits_the_last(order(7))


def test_the_events_of_a_shape_do_not_share_their_attributes() -> None:
    events = decode([Message(order(number), b"{}") for number in range(2 * ENOUGH)])
    assert [event.id for event in events if isinstance(event, Event)] == [
        f"order-{number}" for number in range(2 * ENOUGH)
    ]


def test_kinds_in_turn_are_each_known() -> None:
    for number in range(8 * ENOUGH):
        the_same(order(number, ce_type=f"order.{number % 3}"))
    assert known() == 3


def test_sources_that_come_and_go_are_known_while_they_are_there() -> None:
    for source in range(3 * shapes._OF_ONE_TYPE):
        for number in range(2 * ENOUGH):
            the_same(order(number, ce_source=f"/pod/{source}"))
        assert fits_the_last(order(7, ce_source=f"/pod/{source}"))
    assert known() == shapes._OF_ONE_TYPE


@pytest.mark.parametrize("name", ["ce_id", "trace", "ce_type", "ce_source"])
def test_long_values_are_read_the_same_and_not_kept(name: str) -> None:
    for number in range(2 * ENOUGH):
        the_same(order(number, **{name: "x" * 100_000}))
    for number in range(2 * ENOUGH):
        the_same(order(number))
    the_same(order(1, **{name: "x" * 100_000}))
    kept = shapes._shapes
    of_shapes = [value for found in kept._of_type.values() for shape in found for _, value in shape.pairs]
    met = [part for looks in kept._met for part in looks]
    assert max(map(len, [*of_shapes, *(part[1] if isinstance(part, tuple) else part for part in met)])) < 1000


def test_a_source_in_each_event_is_not_kept() -> None:
    for number in range(40 * ENOUGH):
        the_same(order(number, ce_source=f"/device/{number}"))
    assert known() == 0
    assert len(shapes._shapes._met) <= shapes._LIMIT


def test_more_kinds_than_are_kept_are_read_the_same() -> None:
    for number in range(3 * shapes._LIMIT * 4):
        for _ in range(3):
            the_same(order(number, ce_type=f"order.{number % (2 * shapes._LIMIT)}"))
    assert known() <= shapes._LIMIT


@pytest.mark.parametrize(
    "others",
    [
        {"ce_id": ""},
        {"ce_id": "\x07"},
        {"ce_id": "\u2028"},
        {"ce_id": "bestellung-\u00fc"},
        {"ce_time": ""},
        {"ce_time": "yesterday"},
        {"ce_source": "/shop/\u00e4"},
        {"ce_source": ""},
        {"ce_specversion": "0.3"},
        {"content-type": "application/cloudevents+json"},
        {"content-type": "text/plain"},
        {"ce_dataschema": "/schema"},
        {"ce_Bad": "1"},
        {"trace": ""},
    ],
)
def test_a_record_that_is_not_like_the_others_is_the_bindings(others: dict[str, str]) -> None:
    for number in range(2 * ENOUGH):
        the_same(order(number))
    the_same(order(1, **others))
    the_same(order(2))


def test_absent_and_broken_values_are_the_bindings() -> None:
    for number in range(2 * ENOUGH):
        the_same(order(number))
    for index in range(len(order(0))):
        for value in (None, b"\xff", b""):
            headers = order(1)
            headers[index] = (headers[index][0], value)
            the_same(headers)
    the_same(order(1), body=b"")
    the_same([])


def test_a_structured_event_with_headers_of_its_own_is_no_shape() -> None:
    headers: Headers = [*order(1, **{"content-type": "application/cloudevents+json"})]
    body = b'{"specversion":"1.0","id":"inner","source":"/s","type":"t"}'
    for _ in range(2 * ENOUGH):
        the_same(headers, body=body)
    assert known() == 0


VALUES = st.sampled_from([b"1.0", b"a", b"", b"\xff", b"application/json", "\u00e4".encode(), None])
NAMES = st.sampled_from(
    [
        "ce_specversion",
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_time",
        "content-type",
        "ce_subject",
        "ce_datacontenttype",
        "x",
    ]
)


@given(st.lists(st.lists(st.tuples(NAMES, VALUES), max_size=9), max_size=4), st.sampled_from([b"{}", b""]))
def test_any_headers_are_read_as_the_binding_reads_them(records: list[Headers], body: bytes) -> None:
    if not known():
        for number in range(2 * ENOUGH):
            the_same(order(number), order(number)[:-1])
    the_same(order(1), *records, order(2), body=body)
