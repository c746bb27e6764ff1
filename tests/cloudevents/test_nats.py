"""The NATS binding's own rules: ce-datacontenttype, the reader's order, and sdk-go's dialect."""

import pytest

from headrace import Event
from headrace.cloudevents import nats
from headrace.errors import InvalidEvent

LEAST = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/shop"), ("ce-type", "order.created")]


def test_datacontenttype_is_a_header_like_the_others() -> None:
    headers, _ = nats.binary(Event(type="t", source="/", data="x", datacontenttype="text/plain; charset=utf-8"))
    assert ("ce-datacontenttype", "text/plain;%20charset=utf-8") in headers
    assert "content-type" not in dict(headers)
    assert nats.decode(headers, b"x")[0].datacontenttype == "text/plain; charset=utf-8"


def test_names_are_compared_without_regard_to_case() -> None:
    [event] = nats.decode([("Ce-Specversion", "1.0"), ("CE-ID", "1"), ("ce-Source", "/"), ("Ce-Type", "t")], b"")
    assert event.id == "1"


def test_values_are_percent_encoded_as_on_http() -> None:
    headers, _ = nats.binary(Event(type="t", source="/", ext="Euro € 😀"))
    assert ("ce-ext", "Euro%20%E2%82%AC%20%F0%9F%98%80") in headers
    with pytest.raises(InvalidEvent, match="UTF-8"):
        nats.decode([*LEAST, ("ce-ext", "%C0%A0")], b"")


def test_a_json_object_without_headers_is_a_structured_event() -> None:
    event = Event(type="t", source="/", data={"a": 1})
    assert nats.decode([], event.to_json()) == [event]
    assert nats.read([], event.to_json()) == event
    assert nats.read([("Nats-Msg-Id", "7")], event.to_json()) == event


def test_specversion_in_the_headers_comes_before_the_body() -> None:
    body = Event(type="inside", source="/").to_json()
    assert nats.decode(LEAST, body)[0].type == "order.created"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1}',
        b'{"specversion":"1.0","id":"1","source":"/"}',
        b'{"specversion":1,"id":"1","source":"/","type":"t"}',
        b"[]",
        b"{",
        b"",
    ],
)
def test_any_other_body_is_a_plain_message(body: bytes) -> None:
    assert nats.read([], body) is None


def test_a_body_that_has_all_four_names_and_is_not_valid_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="specversion"):
        nats.read([], b'{"specversion":"0.3","id":"1","source":"/","type":"t"}')


def test_a_content_type_beside_a_body_in_json_makes_it_plain() -> None:
    assert nats.read([("content-type", "application/json")], Event(type="t", source="/").to_json()) is None


def test_the_content_type_of_sdk_go_is_read_when_tolerant() -> None:
    pairs = [*LEAST, ("content-type", "application/json")]
    assert nats.decode(pairs, b"{}")[0].datacontenttype is None
    assert nats.decode(pairs, b"{}", tolerant=True)[0].datacontenttype == "application/json"
    spelled = [*pairs, ("ce-datacontenttype", "text/json")]
    assert nats.decode(spelled, b"{}", tolerant=True)[0].datacontenttype == "text/json"


def test_the_raw_values_of_sdk_go_are_read_when_tolerant() -> None:
    pairs = [*LEAST, ("ce-subject", "100% Zürich"), ("ce-time", "2018-04-05T17:31:00Z")]
    [event] = nats.decode(pairs, b"", tolerant=True)
    assert event.subject == "100% Zürich"


def test_a_structured_event_with_metadata_headers_is_read_from_its_body() -> None:
    body = Event(type="inside", source="/").to_json()
    for _ in range(2):
        assert nats.decode_binary(LEAST, b"x").type == "order.created"
        [event] = nats.decode([*LEAST, ("Content-Type", "application/cloudevents+json")], body)
        assert event.type == "inside"
