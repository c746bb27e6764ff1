"""Header blocks read by learnt shapes: the same events as the exact reader's, whatever the messages of a stream have in common."""

from __future__ import annotations

import random

import pytest

from headrace import Event
from headrace.cloudevents.nats import read
from headrace.errors import InvalidEvent
from headrace.nats import blocks
from headrace.nats.blocks import decode
from headrace.nats.wire import header_pairs


@pytest.fixture(autouse=True)
def nothing_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_shapes", [])


def block(**attributes: str) -> bytes:
    lines = [f"ce-{name}: {value}\r\n" for name, value in attributes.items()]
    return ("NATS/1.0\r\n" + "".join(lines) + 'Nats-Msg-Id: "m"\r\n\r\n').encode()


def order(number: int, **others: str) -> bytes:
    return block(
        **{
            "specversion": "1.0",
            "id": f"order-{number}",
            "source": "/shop/web",
            "type": "order.created",
            "time": f"2026-11-24T10:00:{number % 60:02}Z",
            "datacontenttype": "application/json",
            **others,
        }
    )


def exactly(data: bytes) -> Event:
    event = read(header_pairs(data), b"{}")  # type: ignore[arg-type]
    assert event is not None
    return event


def the_same(data: bytes) -> None:
    found, expected = decode(data, b"{}"), exactly(data)
    assert found is not None
    assert list(found.attributes.items()) == list(expected.attributes.items())
    assert found == expected


def test_what_a_stream_has_in_common_is_taken_from_the_shape_and_the_rest_is_read() -> None:
    for number in range(3 * blocks._PATIENCE):
        the_same(order(number))
    (shape,) = blocks._shapes
    assert shape.same is not None
    assert shape.fixed == {
        "specversion": "1.0", "id": None, "source": "/shop/web", "type": "order.created", "time": None,
        "datacontenttype": "application/json",
    }  # fmt: skip


def test_the_events_of_a_shape_do_not_share_their_attributes() -> None:
    events = [decode(order(number), b"{}") for number in range(blocks._PATIENCE + 10)]
    assert len({event.id for event in events if event is not None}) == len(events)
    one, other = events[-2:]
    assert one is not None
    assert other is not None
    one._attributes["type"] = "changed"
    assert other.type == "order.created"
    the_same(order(1))


def test_a_message_that_differs_is_read_as_it_is_and_the_shape_takes_nothing_for_granted_for_longer() -> None:
    for number in range(blocks._PATIENCE + 10):
        the_same(order(number))
    (shape,) = blocks._shapes
    assert shape.same is not None
    for changed in ({"type": "order.paid"}, {"source": "/shop/app"}, {"datacontenttype": "application/xml"}):
        the_same(order(1, **changed))
        assert shape.same is None
    for number in range(blocks._PATIENCE + 10):
        the_same(order(number))
    assert shape.same is None, "once wrong, twice as long"
    for number in range(8 * blocks._PATIENCE):
        the_same(order(number))
    assert shape.same is not None


def test_two_types_in_turn_are_never_taken_for_granted() -> None:
    for number in range(4 * blocks._PATIENCE):
        the_same(order(number, type=f"order.{number % 2}"))
    assert all(shape.same is None for shape in blocks._shapes)


@pytest.mark.parametrize(
    "others",
    [
        {"type": "order.cr%C3%A9ated"},
        {"source": "/shop?a=1&b=(x)+[y]*"},
        {"type": "a.b|c^d$e"},
        {"subject": "or%20der"},
        {"type": 'say-"x"'},
        {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
    ],
)
def test_characters_that_mean_something_to_a_pattern_or_to_the_binding_stay_what_they_are(
    others: dict[str, str],
) -> None:
    for number in range(blocks._PATIENCE + 20):
        the_same(order(number, **others))


def test_an_invalid_message_in_a_row_of_good_ones_is_still_refused() -> None:
    for number in range(blocks._PATIENCE + 20):
        the_same(order(number))
    for wrong in (order(1, source="not a uri"), order(1, id=""), order(1, datacontenttype="nonsense;")):
        with pytest.raises(InvalidEvent):
            decode(wrong, b"{}")
    the_same(order(2))


def test_a_mixed_stream_is_read_as_the_exact_reader_reads_it() -> None:
    chance = random.Random(7)
    for number in range(6000):
        others = {}
        if chance.random() < 0.02:
            others["type"] = chance.choice(["order.paid", "order.sent"])
        if chance.random() < 0.02:
            others["subject"] = f"s{number}"
        if chance.random() < 0.01:
            others["source"] = f"/shop/{chance.randrange(5)}"
        the_same(order(number, **others))


@pytest.mark.parametrize(
    ("body", "is_event"),
    [
        (b'{"specversion": "1.0", "id": "1", "source": "/a", "type": "b"}', True),
        (b'{"spec\\u0076ersion": "1.0", "id": "1", "source": "/a", "type": "b"}', True),
        (b'{"specversion": "1.0", "id": "1"}', False),
        (b'{"said": "\\u00e9"}', False),
        (b'{"id": "1", "source": "/a", "type": "b"}', False),
        (b"specversion", False),
        (b"", False),
    ],
)
def test_without_headers_of_an_event_the_body_says_whether_it_is_one(body: bytes, is_event: bool) -> None:
    for headers in (b"", b"NATS/1.0\r\nNats-Pin-Id: abc\r\n\r\n"):
        assert (decode(headers, body) is not None) is is_event


@pytest.mark.parametrize("name", ["CE-SpecVersion", "ce-specversion", "Ce-Specversion"])
def test_header_names_are_known_in_any_case(name: str) -> None:
    data = f"NATS/1.0\r\n{name}: 1.0\r\nce-id: 1\r\nce-source: /a\r\nce-type: b\r\n\r\n".encode()
    found = decode(data, b"{}")
    assert found is not None
    assert found.id == "1"
