"""The documented extensions, from the types of JSON and from the text of headers."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from headrace import Event
from headrace.cloudevents import extensions
from headrace.errors import InvalidEvent
from tests.cloudevents.vectors import vectors

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(**attributes: Any) -> Event:
    return Event(type="t", source="/", id="1", **attributes)


def test_a_trace_parent_is_taken_apart() -> None:
    parent = extensions.trace_parent(event(traceparent=TRACE))
    assert parent == ("00", "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "01")
    assert parent is not None
    assert parent.sampled
    later = extensions.trace_parent(event(traceparent=f"01-{TRACE[3:]}-more"))
    assert later is not None
    assert later.version == "01"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        TRACE.upper(),
        f"ff{TRACE[2:]}",
        f"{TRACE}-more",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        5,
    ],
)
def test_a_trace_parent_that_is_none_is_ignored(text: Any) -> None:
    assert extensions.trace_parent(event(traceparent=text)) is None


def test_a_trace_is_set_once_and_never_overwritten() -> None:
    first = extensions.with_trace(event(), TRACE, "a=b")
    assert (first["traceparent"], first["tracestate"]) == (TRACE, "a=b")
    assert extensions.with_trace(first, "00-other") is first
    assert "tracestate" not in extensions.with_trace(event(), TRACE)


def test_the_partition_key_is_text() -> None:
    assert extensions.partition_key(event(partitionkey=5)) == "5"
    assert extensions.partition_key(event()) is None
    assert extensions.partition_key(event(partitionkey="")) is None


def test_an_expiry_time_is_read_and_compared() -> None:
    late = event(expirytime="2020-01-01T00:00:00Z")
    assert extensions.expiry(late) == datetime(2020, 1, 1, tzinfo=UTC)
    assert extensions.expired(late, datetime(2020, 1, 1, tzinfo=UTC))
    assert not extensions.expired(late, datetime(2019, 12, 31, tzinfo=UTC))
    assert not extensions.expired(event(), datetime(2019, 12, 31, tzinfo=UTC))
    assert extensions.expiry(event(expirytime=datetime(2020, 1, 1, tzinfo=UTC))) == datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidEvent, match="expirytime"):
        extensions.expiry(event(expirytime="soon"))


def test_a_sequence_is_an_integer_where_it_says_so() -> None:
    assert extensions.sequence(event()) is None
    assert extensions.sequence(event(sequence="0001")) == "0001"
    assert extensions.sequence(event(sequence="0001", sequencetype="Integer")) == 1
    with pytest.raises(InvalidEvent, match="sequence"):
        extensions.sequence(event(sequence="a", sequencetype="Integer"))


def test_a_sampled_rate_is_greater_than_zero() -> None:
    assert extensions.sampled_rate(event()) == 1
    assert extensions.sampled_rate(event(sampledrate="30")) == extensions.sampled_rate(event(sampledrate=30)) == 30
    for bad in (0, "-1", "x", True):
        with pytest.raises(InvalidEvent, match="sampledrate"):
            extensions.sampled_rate(event(sampledrate=bad))


def test_a_data_reference_is_a_uri_reference() -> None:
    assert extensions.data_reference(event()) is None
    assert extensions.data_reference(event(dataref="https://example.com/1")) == "https://example.com/1"
    with pytest.raises(InvalidEvent, match="dataref"):
        extensions.data_reference(event(dataref="not a uri"))


def test_derived_events_are_tied_to_their_parent() -> None:
    parent = event()
    child = Event(type="u", source="/", id="2", **extensions.derived_from(parent))
    grandchild = Event(type="v", source="/", id="3", **extensions.derived_from(child))
    assert (child["correlationid"], child["causationid"], child["hopcount"]) == ("1", "1", 1)
    assert (grandchild["correlationid"], grandchild["causationid"], grandchild["hopcount"]) == ("1", "2", 2)
    assert extensions.hop_count(parent) == 0
    assert extensions.hop_count(event(hopcount="7")) == 7
    for bad in (-1, "x", 2**31 - 1):
        with pytest.raises(InvalidEvent, match="hopcount"):
            extensions.hop_count(event(hopcount=bad))


def test_the_correlation_examples_of_the_document_are_read() -> None:
    for path in sorted(vectors("spec-examples").glob("ext-correlation-*.json")):
        members = json.loads(path.read_text())
        read = Event.from_json(path.read_bytes())
        assert read["correlationid"] == members["correlationid"]
        assert read.get("causationid") == members.get("causationid")


def test_the_other_documented_extensions_are_plain_attributes() -> None:
    made = event(severitynumber=9, severitytext="INFO", deprecated=True, deprecationmigration="https://example.com/m")
    assert Event.from_json(made.to_json())["severitynumber"] == 9
    assert Event.from_json(made.to_json())["deprecated"] is True
