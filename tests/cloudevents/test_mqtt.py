"""The MQTT binding's own rules: user properties without prefix, 3.1.1, and sdk-go's dialect."""

import pytest

from headrace import Event
from headrace.cloudevents import mqtt
from headrace.errors import InvalidEvent

LEAST = [("specversion", "1.0"), ("id", "1"), ("source", "/shop"), ("type", "order.created")]


def test_user_properties_have_the_names_of_attributes() -> None:
    headers, _ = mqtt.binary(Event(type="t", source="/", id="1", ext="100% €", data={"a": 1}))
    assert headers == [
        ("specversion", "1.0"),
        ("id", "1"),
        ("source", "/"),
        ("type", "t"),
        ("ext", "100% €"),
        ("content-type", "application/json"),
    ]


def test_user_properties_of_others_are_passed_over() -> None:
    pairs = [*LEAST, ("X-Trace", "1"), ("user_name", "a"), ("X-Trace", "2"), ("data", "d"), ("", "")]
    assert mqtt.decode(pairs, b"x") == mqtt.decode(LEAST, b"x")


def test_the_content_type_may_be_spelled_beside_as_in_the_documents_example() -> None:
    pairs = [*LEAST, ("datacontenttype", "application/json; charset=utf-8")]
    assert mqtt.decode(pairs, b"{}")[0].datacontenttype == "application/json; charset=utf-8"
    both = [*pairs, ("content-type", "application/json; charset=utf-8")]
    assert mqtt.decode(both, b"{}")[0].data == {}
    with pytest.raises(InvalidEvent, match="datacontenttype"):
        mqtt.decode([*pairs, ("content-type", "text/plain")], b"{}")


def test_mqtt_3_1_1_carries_structured_json_without_any_property() -> None:
    event = Event(type="t", source="/", data={"a": 1})
    _, body = mqtt.structured(event)
    assert mqtt.decode([], body) == [event]
    assert mqtt.read([], b"plain") is None


def test_the_prefix_of_sdk_go_is_read_when_tolerant() -> None:
    pairs = [(f"ce-{name}", value) for name, value in LEAST] + [("content-type", "application/json"), ("ce-ext", "1")]
    with pytest.raises(InvalidEvent, match="no CloudEvent"):
        mqtt.decode(pairs, b"{}")
    [event] = mqtt.decode(pairs, b"{}", tolerant=True)
    assert (event.id, event["ext"], event.datacontenttype) == ("1", "1", "application/json")
    with pytest.raises(InvalidEvent, match="more than once"):
        mqtt.decode([*pairs, ("id", "1")], b"{}", tolerant=True)
