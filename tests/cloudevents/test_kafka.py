"""The Kafka binding's own rules: UTF-8 headers, tombstones, the key mapper."""

import pytest

from headrace import Event
from headrace.cloudevents import kafka
from headrace.errors import InvalidEvent

LEAST = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/shop"), ("ce_type", b"order.created")]


def test_headers_are_utf_8_and_not_percent_encoded() -> None:
    headers, _ = kafka.binary(Event(type="t", source="/", ext="100% €"))
    assert ("ce_ext", "100% €".encode()) in headers
    assert kafka.decode([*LEAST, ("ce_ext", b"a%20b")], b"x")[0]["ext"] == "a%20b"
    with pytest.raises(InvalidEvent, match="UTF-8"):
        kafka.decode([*LEAST, ("ce_ext", b"\xff")], b"x")


def test_an_event_without_data_is_a_tombstone_and_back() -> None:
    event = Event(type="t", source="/")
    headers, value = kafka.binary(event)
    assert value is None
    assert kafka.decode(headers, None) == [event]
    assert kafka.decode(headers, None)[0].raw is None


def test_empty_data_is_not_absent() -> None:
    headers, value = kafka.binary(Event(type="t", source="/", data=b""))
    assert value == b""
    assert kafka.decode(headers, value)[0].raw == b""


def test_a_structured_event_without_data_is_no_tombstone() -> None:
    _, value = kafka.structured(Event(type="t", source="/"))
    assert value


def test_content_type_is_the_datacontenttype() -> None:
    assert kafka.decode([*LEAST, ("content-type", b"a/b")], b"x")[0].datacontenttype == "a/b"
    headers, _ = kafka.binary(Event(type="t", source="/", data="x", datacontenttype="text/plain"))
    assert ("content-type", b"text/plain") in headers
    assert "ce_datacontenttype" not in dict(headers)


def test_a_spelled_datacontenttype_may_not_contradict_the_content_type() -> None:
    spelled = ("ce_datacontenttype", b"a/b")
    assert kafka.decode([*LEAST, spelled], b"x")[0].datacontenttype == "a/b"
    assert kafka.decode([*LEAST, spelled, ("content-type", b"a/b")], b"x")[0].datacontenttype == "a/b"
    with pytest.raises(InvalidEvent, match="datacontenttype"):
        kafka.decode([*LEAST, spelled, ("content-type", b"a/c")], b"x")


def test_the_partition_key_is_the_record_key_on_request_and_stays_in_the_event() -> None:
    event = Event(type="t", source="/", partitionkey="k€")
    assert kafka.partition_key(event) == "k€".encode()
    assert kafka.partition_key(Event(type="t", source="/")) is None
    assert ("ce_partitionkey", "k€".encode()) in kafka.binary(event)[0]


def test_an_upper_case_header_is_no_attribute() -> None:
    assert kafka.decode([*LEAST, ("CE_EXT", b"x")], b"x")[0].get("ext") is None
