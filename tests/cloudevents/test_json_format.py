"""The JSON event format and its batch form: what is read, what is written, what is refused."""

import json
from typing import Any

import pytest

from headrace import Event
from headrace.cloudevents import http
from headrace.cloudevents.json import batch
from headrace.errors import InvalidEvent

LEAST = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created"}


def text(**members: Any) -> bytes:
    return json.dumps({**LEAST, **members}).encode()


def written(event: Event) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(event.to_json())
    return members


def test_attributes_keep_their_json_types() -> None:
    event = Event.from_json(text(flag=True, count=-5, word="x", traceparent="t"))
    assert (event["flag"], event["count"], event["word"]) == (True, -5, "x")
    assert event.attributes["count"] == "-5"
    assert written(event) == {**LEAST, "flag": True, "count": -5, "word": "x", "traceparent": "t"}


def test_null_attributes_are_absent() -> None:
    event = Event.from_json(text(subject=None, time=None, partitionkey=None, ext=None, data_base64=None))
    assert set(event.attributes) == set(LEAST)
    assert event.raw is None


@pytest.mark.parametrize("name", LEAST)
def test_a_required_attribute_may_not_be_missing_null_or_empty(name: str) -> None:
    for value in (None, ""):
        with pytest.raises(InvalidEvent, match=name):
            Event.from_json(text(**{name: value}))
    with pytest.raises(InvalidEvent, match=name):
        Event.from_json(json.dumps({key: value for key, value in LEAST.items() if key != name}).encode())


@pytest.mark.parametrize("name", ["subject", "dataschema", "datacontenttype", "time"])
def test_an_optional_attribute_may_not_be_empty(name: str) -> None:
    with pytest.raises(InvalidEvent, match=name):
        Event.from_json(text(**{name: ""}))


def test_an_extension_may_be_empty() -> None:
    assert Event.from_json(text(ext=""))["ext"] == ""


@pytest.mark.parametrize("name", ["Ext", "EXT", "", "my_ext", "my-ext", "é", "data_base65", "Data"])
def test_a_member_that_no_attribute_may_be_called_is_refused(name: str) -> None:
    with pytest.raises(InvalidEvent, match="attribute name"):
        Event.from_json(text(**{name: "x"}))


@pytest.mark.parametrize("value", [[], ["a"], {}, {"a": 1}, 1.5, 1.0, 2**31, -(2**31) - 1, 10**30])
@pytest.mark.parametrize("name", ["ext", "partitionkey"])
def test_an_extension_that_is_no_string_integer_or_boolean_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidEvent, match=name):
        Event.from_json(text(**{name: value}))


@pytest.mark.parametrize("number", ["5.0", "5e0", "1E2", "-0.0"])
def test_a_number_with_a_fraction_or_an_exponent_is_no_integer(number: str) -> None:
    with pytest.raises(InvalidEvent, match="ext"):
        Event.from_json(text(ext=1).replace(b": 1}", b": " + number.encode() + b"}"))


@pytest.mark.parametrize("name", ["id", "source", "type", "subject", "time", "datacontenttype", "dataschema"])
def test_an_attribute_of_the_specification_must_be_a_json_string(name: str) -> None:
    with pytest.raises(InvalidEvent, match=name):
        Event.from_json(text(**{name: 5}))


@pytest.mark.parametrize("name", ["id", "type", "subject", "ext", "partitionkey"])
@pytest.mark.parametrize(
    "bad", ["\\u0000", "\\n", "\\u007f", "\\u009f", "\\ufdd0", "\\uffff", "\\ud83f\\udffe", "\x7f"]
)
def test_text_that_strings_may_not_hold_is_refused(name: str, bad: str) -> None:
    event = json.dumps({**LEAST, name: "MARK"}).replace("MARK", f"a{bad}b").encode()
    with pytest.raises(InvalidEvent, match=name):
        Event.from_json(event)


def test_an_unpaired_surrogate_is_refused_and_a_pair_is_read() -> None:
    with pytest.raises(InvalidEvent):
        Event.from_json(b'{"specversion":"1.0","id":"1","source":"/","type":"t","ext":"\\ud800"}')
    event = Event.from_json(b'{"specversion":"1.0","id":"1","source":"/","type":"t","ext":"\\ud83d\\ude00"}')
    assert event["ext"] == "😀"


@pytest.mark.parametrize("version", ["0.3", "1", "1.1", "2.0"])
def test_an_unknown_specversion_is_refused(version: str) -> None:
    with pytest.raises(InvalidEvent, match="specversion"):
        Event.from_json(text(specversion=version))


@pytest.mark.parametrize(
    "broken",
    [b"", b" ", b"null", b"1", b'"a"', b"[]", b"{", b'{"a"', b"{}", b"\xff", b"\xef\xbb\xbf{}", b"NaN", b"[" * 100_000],
)
def test_what_is_no_json_object_is_refused(broken: bytes) -> None:
    with pytest.raises(InvalidEvent):
        Event.from_json(broken)


def test_text_that_is_not_utf_8_is_refused_wherever_it_is() -> None:
    for member in (b'"ext":"\xff"', b'"data":"\xff"', b'"data":{"a":"\xff"}'):
        with pytest.raises(InvalidEvent, match=r"UTF-8|utf-8"):
            Event.from_json(text()[:-1] + b"," + member + b"}")


@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_a_depth_bomb_is_refused(depth: int) -> None:
    for member in ("data", "ext"):
        bomb = text()[:-1] + f',"{member}":'.encode() + b"[" * depth + b"]" * depth + b"}"
        with pytest.raises(InvalidEvent):
            Event.from_json(bomb)


def test_str_and_bytes_are_read_alike() -> None:
    assert Event.from_json(text().decode()) == Event.from_json(text())
    with pytest.raises(InvalidEvent, match="surrogate"):
        Event.from_json('{"id":"\ud800"}')


@pytest.mark.parametrize("value", [{"a": 1}, [1], "text", 1.5, True, None])
@pytest.mark.parametrize("content_type", [None, "application/json", "text/json", "application/vnd.x+json;v=1"])
def test_data_of_a_json_type_is_the_json_value_itself(value: Any, content_type: str | None) -> None:
    members = {"data": value} if content_type is None else {"datacontenttype": content_type, "data": value}
    event = Event.from_json(text(**members))
    assert event.data == value
    assert event.raw is not None
    assert json.loads(event.raw) == value
    assert written(event) == {**LEAST, **members}


def test_a_json_string_is_not_decoded_a_second_time() -> None:
    assert Event.from_json(text(data='{"a":1}')).data == '{"a":1}'


def test_data_null_is_not_absent_data() -> None:
    assert Event.from_json(text(data=None)).raw == b"null"
    assert Event.from_json(text()).raw is None


def test_data_of_another_type_is_a_string() -> None:
    event = Event.from_json(text(datacontenttype="application/xml", data="<a/>"))
    assert (event.data, event.raw) == ("<a/>", b"<a/>")
    assert written(event)["data"] == "<a/>"


@pytest.mark.parametrize("value", [{"a": 1}, [1], 5, True, None])
def test_data_of_another_type_that_is_no_string_is_refused(value: Any) -> None:
    with pytest.raises(InvalidEvent, match="application/xml"):
        Event.from_json(text(datacontenttype="application/xml", data=value))


def test_data_base64_is_bytes() -> None:
    event = Event.from_json(text(data_base64="AAE="))
    assert (event.data, event.raw, event.datacontenttype) == (b"\x00\x01", b"\x00\x01", None)
    assert written(event) == {**LEAST, "data_base64": "AAE="}


@pytest.mark.parametrize("encoded", ["A", "AAE", "AA=E", "AAE=\n", "-_8=", "AAE==", "é", "A A="])
def test_data_base64_that_is_none_is_refused(encoded: str) -> None:
    with pytest.raises(InvalidEvent, match="data_base64"):
        Event.from_json(text(data_base64=encoded))


@pytest.mark.parametrize("encoded", [5, [], {}, True])
def test_data_base64_must_be_a_string(encoded: Any) -> None:
    with pytest.raises(InvalidEvent, match="data_base64"):
        Event.from_json(text(data_base64=encoded))


def test_data_and_data_base64_exclude_each_other() -> None:
    with pytest.raises(InvalidEvent, match="both"):
        Event.from_json(text(data=1, data_base64="AAE="))


def test_bytes_are_written_as_data_base64_without_an_invented_content_type() -> None:
    event = Event(type="t", source="/", id="1", data=b"\x00\x01")
    assert written(event) == {"specversion": "1.0", "id": "1", "source": "/", "type": "t", "data_base64": "AAE="}


def test_bytes_given_as_text_stay_bytes() -> None:
    event = Event(type="t", source="/", data=b"text", datacontenttype="text/plain")
    assert written(event)["data_base64"] == "dGV4dA=="


def test_a_json_text_given_as_bytes_keeps_every_byte() -> None:
    for raw, member in (
        (b'{"a": 1}', "data"),
        (b'{"a":1}\n', "data_base64"),
        (b" 1", "data_base64"),
        (b"", "data_base64"),
    ):
        event = Event(type="t", source="/", data=raw, datacontenttype="application/json")
        assert member in written(event)
        assert Event.from_json(event.to_json()).raw == raw


def test_data_base64_of_a_json_type_stays_data_base64() -> None:
    event = Event.from_json(text(data_base64="eyJhIjoxfQ==", datacontenttype="application/json"))
    assert event.data == {"a": 1}
    assert written(event)["data_base64"] == "eyJhIjoxfQ=="


def test_a_body_in_json_is_written_as_the_value() -> None:
    event = received(b' {"a": 1} \n', "application/json")
    assert written(event)["data"] == {"a": 1}


def test_a_body_that_is_not_the_json_it_says_is_carried_as_bytes() -> None:
    for raw in (b"{", b'"\xff"', b"[" * 100_000):
        event = received(raw, "application/json")
        assert Event.from_json(event.to_json()).raw == raw


def test_a_body_of_text_is_written_as_a_string_where_it_is_utf_8() -> None:
    assert written(received("€".encode(), "text/plain"))["data"] == "€"
    assert written(received(b"\xff", "text/plain"))["data_base64"] == "/w=="
    assert written(received(b"\xfc", "text/plain; charset=iso-8859-1"))["data_base64"] == "/A=="


def test_a_structured_text_has_the_bytes_of_its_charset() -> None:
    event = Event.from_json(text(datacontenttype="text/plain; charset=iso-8859-1", data="ü"))
    assert (event.data, event.raw) == ("ü", b"\xfc")
    assert written(event)["data"] == "ü"


def test_binary_attributes_and_times_are_written_as_canonical_strings() -> None:
    event = Event(type="t", source="/", ext=b"\x00", time="2018-04-05T17:31:00.123456789Z")
    assert written(event)["ext"] == "AA=="
    assert written(event)["time"] == "2018-04-05T17:31:00.123456789Z"


def test_forwarding_keeps_the_bytes_of_data() -> None:
    data = b'{"b" : 1.50,  "a":"\\u00e9"}'
    event = Event.from_json(text()[:-1] + b',"data":' + data + b"}")
    assert data in event.replace(id="2").to_json()


def test_an_implied_content_type_is_spelled_in_another_binding() -> None:
    headers, body = http.binary(Event.from_json(text(data="I'm just a string")))
    assert ("content-type", "application/json") in headers
    assert body == b'"I\'m just a string"'


@pytest.mark.parametrize("name", ["1", "4th", "class", "if", "none", "self", "cls", "int"])
def test_names_that_are_no_python_names_are_read(name: str) -> None:
    for _ in range(2):
        assert Event.from_json(text(**{name: "x"}))[name] == "x"


def test_more_names_than_are_learned_are_read() -> None:
    for index in range(40):
        assert Event.from_json(text(**{f"learned{index}": index}))[f"learned{index}"] == index
    many = {f"name{index}": f"v{index}" for index in range(500)}
    assert Event.from_json(text(**many)).attributes == {**LEAST, **many}


def test_every_event_of_64_kib_is_read() -> None:
    many = {f"a{index}": index for index in range(4_000)}
    event = Event.from_json(json.dumps({**LEAST, **many}, separators=(",", ":")).encode())
    assert len(event.attributes) == 4_004


def test_a_batch_is_read_in_order() -> None:
    events = Event.from_json_batch(b"[" + b",".join(text(id=str(index), data=index) for index in range(5)) + b"]")
    assert [event.id for event in events] == ["0", "1", "2", "3", "4"]
    assert [event.data for event in events] == [0, 1, 2, 3, 4]


def test_an_empty_batch_is_a_batch() -> None:
    assert Event.from_json_batch(b" [ ] ") == []
    assert batch([]) == b"[]"


def test_a_batch_with_names_of_its_own_is_read() -> None:
    events = Event.from_json_batch(b"[" + text(neverseen=1) + b"," + text(id="2", neverseentoo="x") + b"]")
    assert events[0]["neverseen"] == 1
    assert events[1]["neverseentoo"] == "x"


def test_a_batch_survives() -> None:
    events = [Event(type="t", source="/", data=value) for value in ({"a": 1}, "x", b"\x00", None)]
    assert Event.from_json_batch(batch(events)) == events


@pytest.mark.parametrize(
    "bad",
    [b"1", b"{}", b"null", text(id=""), text(ext=[]), text(specversion="0.3"), text(data_base64="A"), text(id="\x00")],
)
def test_one_bad_member_rejects_the_batch_and_is_named(bad: bytes) -> None:
    with pytest.raises(InvalidEvent, match="event 2 of the batch"):
        Event.from_json_batch(b"[" + text() + b"," + text() + b"," + bad + b"," + text() + b"]")


@pytest.mark.parametrize("broken", [b"", b"{}", b"null", b"[", b"[1", text(), b"\xff", b"[" * 100_000])
def test_what_is_no_json_array_is_no_batch(broken: bytes) -> None:
    with pytest.raises(InvalidEvent):
        Event.from_json_batch(broken)


def received(raw: bytes, content_type: str) -> Event:
    return Event._trusted({**LEAST, "datacontenttype": content_type}, raw)


def test_bytes_that_are_no_utf_8_are_named_by_their_members_index() -> None:
    with pytest.raises(InvalidEvent, match="event 1 of the batch"):
        Event.from_json_batch(b"[" + text() + b"," + text(id="x").replace(b'"x"', b'"\xff"') + b"]")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"\xef\xbb\xbf" + text(), "byte order mark"),
        (text(subject="?").replace(b"?", b"\\ud83d"), r"\\ud83d at byte \d+"),
    ],
)
def test_what_the_parser_does_not_explain_is_explained(broken: bytes, reason: str) -> None:
    with pytest.raises(InvalidEvent, match=reason):
        Event.from_json(broken)
