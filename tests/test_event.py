"""The event: its constructor, its attributes, its data, and what may never be changed."""

import copy
import enum
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from headrace import Event
from headrace.errors import InvalidEvent


def event(**attributes: Any) -> Event:
    return Event(**{"type": "order.created", "source": "/shop", "id": "1", **attributes})


def test_a_missing_id_is_made_and_nothing_else_is_invented() -> None:
    made = Event(type="order.created", source="/shop")
    assert len(made.id) == 36
    assert made.attributes == {"specversion": "1.0", "id": made.id, "source": "/shop", "type": "order.created"}
    assert made.raw is None
    assert made.data is None


def test_an_event_knows_whether_its_id_was_made() -> None:
    assert Event(type="a", source="/")._made_id
    assert not event()._made_id
    assert not Event(type="a", source="/").replace(id="7")._made_id
    assert Event(type="a", source="/").replace(subject="7")._made_id


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (-(2**31), "-2147483648"),
        (2**31 - 1, "2147483647"),
        ("Zürich €", "Zürich €"),
        (b"\x00\xff", "AP8="),
        (datetime(2018, 4, 5, 17, 31, tzinfo=UTC), "2018-04-05T17:31:00Z"),
        (datetime(2018, 4, 5, 17, 31, 0, 250, timezone(timedelta(hours=-2))), "2018-04-05T17:31:00.000250-02:00"),
    ],
)
def test_an_extension_keeps_its_type_and_has_one_canonical_string(value: Any, text: str) -> None:
    made = event(ext=value)
    assert made["ext"] == value
    assert type(made["ext"]) is type(value)
    assert made.attributes["ext"] == text


@pytest.mark.parametrize(
    "value",
    [
        2**31,
        -(2**31) - 1,
        1.5,
        1.0,
        [],
        {},
        datetime(2018, 4, 5),
        "a\x00b",
        "\x1f",
        "\x7f",
        "\x9f",
        "\ud800",
        "\ufdd0",
        "\U0010fffe",
    ],
)
def test_a_value_outside_the_type_system_is_refused(value: Any) -> None:
    with pytest.raises(InvalidEvent, match=r"ext|time zone"):
        event(ext=value)


@pytest.mark.parametrize("name", ["Ext", "my_ext", "ext-1", "", "données"])
def test_a_name_outside_the_convention_is_refused(name: str) -> None:
    with pytest.raises(InvalidEvent, match="attribute name"):
        event().replace(**{name: "x"})


def test_long_names_and_leading_digits_are_allowed() -> None:
    assert event(**{"1" + "a" * 40: "x"})["1" + "a" * 40] == "x"


@pytest.mark.parametrize("name", ["id", "source", "type", "subject", "datacontenttype", "dataschema"])
def test_an_attribute_of_the_specification_may_not_be_empty(name: str) -> None:
    with pytest.raises(InvalidEvent, match=name):
        event(**{name: ""})


@pytest.mark.parametrize("name", ["id", "source", "type", "subject", "datacontenttype", "dataschema"])
def test_an_attribute_of_the_specification_must_be_a_string(name: str) -> None:
    with pytest.raises(InvalidEvent, match=name):
        event(**{name: 5})


def test_only_specversion_1_0_is_made() -> None:
    assert event().specversion == "1.0"
    with pytest.raises(InvalidEvent, match="specversion"):
        event(specversion="0.3")


@pytest.mark.parametrize("source", ["with space", "<tag>", "100%", "%zz", 'quo"te', "back\\slash"])
def test_a_source_that_is_no_uri_reference_is_refused(source: str) -> None:
    with pytest.raises(InvalidEvent, match="URI-reference"):
        event(source=source)


@pytest.mark.parametrize(
    "source", ["/", "urn:uuid:6e8bc430", "mailto:a@b.c", "1-555-123-4567", "//host/a?b#c", "/a%20b"]
)
def test_every_form_of_uri_reference_is_a_source(source: str) -> None:
    assert event(source=source).source == source


def test_dataschema_must_be_an_absolute_uri() -> None:
    assert event(dataschema="https://example.com/s").dataschema == "https://example.com/s"
    with pytest.raises(InvalidEvent, match="absolute URI"):
        event(dataschema="/schemas/order")


@pytest.mark.parametrize("content_type", ["json", "application/", "/json", "a/b/c d", "text/plain\x7f", "téxt/plain"])
def test_datacontenttype_must_be_a_media_type(content_type: str) -> None:
    with pytest.raises(InvalidEvent, match="datacontenttype"):
        event(datacontenttype=content_type)


def test_text_of_an_enumeration_is_plain_text() -> None:
    class Kind(str, enum.Enum):  # noqa: UP042 - the older way, whose str() is the member's name
        CREATED = "order.created"

    made = event(type=Kind.CREATED, ext=Kind.CREATED).replace(subject=Kind.CREATED)
    assert {type(made[name]) for name in ("type", "ext", "subject")} == {str}
    assert made.attributes["type"] == made.attributes["ext"] == made.subject == "order.created"


def test_any_name_may_be_given_to_the_constructor() -> None:
    names = {"self": "x", "cls": "y", "name": "z", "value": "v", "kwargs": "k", "extensions": "e"}
    assert names.items() <= event(**names).attributes.items()
    assert names.items() <= event().replace(**names).attributes.items()


def test_time_given_as_text_is_kept_as_it_is() -> None:
    made = event(time="2018-04-05T17:31:00.123456789+02:00")
    assert made.attributes["time"] == "2018-04-05T17:31:00.123456789+02:00"
    assert made.time == datetime(2018, 4, 5, 15, 31, 0, 123456, UTC)


def test_time_given_as_datetime_becomes_rfc_3339() -> None:
    assert event(time=datetime(2018, 4, 5, 17, 31, tzinfo=UTC)).attributes["time"] == "2018-04-05T17:31:00Z"


@pytest.mark.parametrize("time", ["yesterday", "2018-04-05", datetime(2018, 4, 5), 5])
def test_a_time_that_is_none_is_refused_at_once(time: Any) -> None:
    with pytest.raises(InvalidEvent, match="time"):
        event(time=time)


def test_an_event_cannot_be_changed() -> None:
    made = event()
    with pytest.raises(AttributeError):
        made.id = "2"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        made.anything = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        del made.source  # type: ignore[misc]
    with pytest.raises(TypeError):
        made["ext"] = "x"  # type: ignore[index]


def test_attributes_are_a_copy() -> None:
    made = event()
    made.attributes["id"] = "2"
    assert made.id == "1"


def test_replace_changes_adds_and_removes_attributes() -> None:
    made = event(subject="a", ext=1)
    other = made.replace(subject=None, type="order.paid", ext=2, new=True)
    assert (other.subject, other.type, other["ext"], other["new"]) == (None, "order.paid", 2, True)
    assert (made.subject, made.type, made["ext"]) == ("a", "order.created", 1)


def test_replace_shares_data_unless_it_is_given() -> None:
    made = event(data={"a": 1})
    assert made.replace(id="2").data == {"a": 1}
    assert made.replace(data=[1]).data == [1]
    assert made.replace(data=None).raw is None


def test_replace_of_the_content_type_keeps_the_bytes() -> None:
    made = event(data={"a": 1}).replace(datacontenttype="text/plain")
    assert made.raw == b'{"a":1}'
    assert made.data == '{"a":1}'


@pytest.mark.parametrize("changes", [{"id": None}, {"type": ""}, {"source": None}, {"ext": 1.5}, {"time": "x"}])
def test_replace_checks_as_the_constructor_does(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        event().replace(**changes)


def test_events_are_equal_by_canonical_string() -> None:
    assert event(ext=10) == event(ext="10")
    assert event(ext=True) == event(ext="true")
    assert event(ext=b"\x01") == event(ext="AQ==")
    assert event(ext=10) != event(ext=11)
    assert event(ext=10) != event()
    assert event() != "event"
    assert len({event(), event(), event(id="2")}) == 2


def test_json_data_is_equal_by_value_and_type() -> None:
    def received(raw: bytes) -> Event:
        return event(data=raw, datacontenttype="application/json")

    assert received(b'{"a": 1, "b": 2}') == received(b'{"b":2,"a":1}')
    assert received(b'{"a":1}') != received(b'{"a":true}')
    assert received(b"{") != received(b"[")


def test_implied_json_equals_spelled_json() -> None:
    assert event(data={"a": 1}) == event(data={"a": 1}, datacontenttype="application/json")
    assert event(data=b'{"a":1}') != event(data={"a": 1})


def test_absent_null_and_empty_data_are_three_things() -> None:
    absent, null, empty = event(), event(data=b"null", datacontenttype="application/json"), event(data=b"")
    assert (absent.raw, null.raw, empty.raw) == (None, b"null", b"")
    assert absent.data is None
    assert null.data is None
    assert empty.data == b""
    assert b'"data"' not in absent.to_json()
    assert b'"data":null' in null.to_json()
    assert b'"data_base64":""' in empty.to_json()


@pytest.mark.parametrize(
    ("data", "content_type", "raw"),
    [
        ({"a": [1, None, "x"]}, None, b'{"a":[1,null,"x"]}'),
        ("text", None, b'"text"'),
        ("text", "application/json", b'"text"'),
        ("text", "application/vnd.x+json; charset=utf-8", b'"text"'),
        ("text", "text/plain", b"text"),
        ("Zürich", "text/plain; charset=iso-8859-1", b"Z\xfcrich"),
        (b"\x00\x01", None, b"\x00\x01"),
        (bytearray(b"\x00\x01"), "application/octet-stream", b"\x00\x01"),
        (5, None, b"5"),
        (False, None, b"false"),
    ],
)
def test_data_is_encoded_by_its_content_type(data: Any, content_type: str | None, raw: bytes) -> None:
    assert event(data=data, datacontenttype=content_type).raw == raw


def test_given_data_is_kept_and_received_data_decoded_once() -> None:
    data = {"a": 1}
    assert event(data=data).data is data
    received = Event._trusted({"datacontenttype": "application/json"}, b'{"a":1}')
    assert received.data is received.data


@pytest.mark.parametrize("data", [float("nan"), {"a": [float("inf")]}, object(), {"a": "\ud800"}, {1j: 2}])
def test_data_that_json_cannot_write_is_refused(data: Any) -> None:
    with pytest.raises(InvalidEvent, match="data"):
        _ = event(data=data).raw


@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain"])
def test_data_that_is_no_unicode_is_refused_when_it_is_written(content_type: str | None) -> None:
    event = Event(type="t", source="/", data="\ud800", datacontenttype=content_type)
    with pytest.raises(InvalidEvent):
        event.to_json()
    with pytest.raises(InvalidEvent):
        event.raw  # noqa: B018 - encodes


def test_a_value_that_is_no_text_cannot_be_data_of_a_text_type() -> None:
    with pytest.raises(InvalidEvent, match="application/xml"):
        event(data={"a": 1}, datacontenttype="application/xml")


@pytest.mark.parametrize(
    ("raw", "content_type"),
    [
        (b"{", "application/json"),
        (b"NaN", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"9" * 10_000, "application/json"),
        (b"1e999", "application/json"),
        (b'"\xff"', "application/json"),
        (b"\xff", "text/plain"),
        (b"abc", "text/plain; charset=no-such"),
        (b"abc", "text/plain; charset=idna"),
        (b"abc", "text/plain; charset=zlib_codec"),
    ],
)
def test_data_that_is_not_what_it_says_is_an_invalid_event_and_stays_readable(raw: bytes, content_type: str) -> None:
    received = event(data=raw, datacontenttype=content_type)
    with pytest.raises(InvalidEvent, match=r"data|charset"):
        _ = received.data
    assert received.raw == raw


def test_text_in_a_charset_that_is_not_known_survives_pickling() -> None:
    event = Event(type="t", source="/", id="1", data="Zürich", datacontenttype="text/plain; charset=unheard-of")
    assert pickle.loads(pickle.dumps(event)) == event
    assert pickle.loads(pickle.dumps(event)).to_json() == event.to_json()


def test_events_survive_pickling_and_copying() -> None:
    made = event(data={"a": 1}, subject="s")
    assert pickle.loads(pickle.dumps(made)) == made
    received = Event.from_json(made.to_json())
    assert pickle.loads(pickle.dumps(received)).data == {"a": 1}
    assert copy.copy(made) is made
    assert copy.deepcopy(made) is made


def test_repr_shows_attributes_and_not_data() -> None:
    assert repr(event(data="secret")) == "Event(id='1', source='/shop', type='order.created', data=…)"


def test_contains_and_get_ask_for_attributes() -> None:
    made = event(ext=1)
    assert "ext" in made
    assert "other" not in made
    assert made.get("other", 5) == 5
    with pytest.raises(KeyError):
        _ = made["other"]
    with pytest.raises(TypeError):
        iter(made)  # type: ignore[call-overload]
