"""What the four bindings have in common, asked of each."""

from types import ModuleType
from typing import Any

import pytest

from headrace import Event
from headrace.cloudevents import http, kafka, mqtt, nats
from headrace.errors import InvalidEvent, UnsupportedFormat

BINDINGS = {"http": http, "kafka": kafka, "nats": nats, "mqtt": mqtt}
LEAST = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created"}


@pytest.fixture(params=BINDINGS.values(), ids=BINDINGS.keys())
def binding(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def header(binding: ModuleType, name: str, value: str) -> tuple[str, Any]:
    """One attribute as the binding's header."""
    prefix = binding.BINDING.prefix
    text = f"{prefix}{name}"
    return text, value.encode() if binding is kafka else value


def content_type(binding: ModuleType, value: str) -> tuple[str, Any]:
    return "content-type", value.encode() if binding is kafka else value


def headers(binding: ModuleType, **attributes: str) -> list[tuple[str, Any]]:
    return [header(binding, name, value) for name, value in {**LEAST, **attributes}.items()]


def test_attributes_arrive_as_text_and_are_equal_to_what_was_sent(binding: ModuleType) -> None:
    event = Event(type="t", source="/", count=10, flag=True, blob=b"\x00\x01", data={"a": 1})
    [back] = binding.decode(*binding.binary(event))
    assert back == event
    assert (back["count"], back["flag"], back["blob"]) == ("10", "true", "AAE=")


def test_structured_keeps_types(binding: ModuleType) -> None:
    event = Event(type="t", source="/", count=10, flag=True, data={"a": 1})
    [back] = binding.decode(*binding.structured(event))
    assert back == event
    assert (back["count"], back["flag"]) == (10, True)


def test_structured_sets_the_content_type(binding: ModuleType) -> None:
    written, _ = binding.structured(Event(type="t", source="/"))
    assert written == [content_type(binding, "application/cloudevents+json")]


@pytest.mark.parametrize(
    "media",
    [
        "application/cloudevents+json",
        "application/cloudevents+json; charset=utf-8",
        "APPLICATION/CloudEvents+JSON ;x=y",
    ],
)
def test_the_content_type_decides_the_mode_before_any_header(binding: ModuleType, media: str) -> None:
    body = Event(type="inside", source="/").to_json()
    [event] = binding.decode([*headers(binding, type="outside"), content_type(binding, media)], body)
    assert event.type == "inside"
    [event] = binding.decode([content_type(binding, media), *headers(binding, type="outside")], body)
    assert event.type == "inside"


@pytest.mark.parametrize(
    "media", ["application/cloudevents+avro", "application/cloudevents", "application/cloudevents+xml"]
)
def test_an_unknown_format_is_refused_by_name(binding: ModuleType, media: str) -> None:
    with pytest.raises(UnsupportedFormat, match=media.replace("+", r"\+")):
        binding.decode([content_type(binding, media), *headers(binding)], b"")


@pytest.mark.parametrize("binding", [kafka, nats, mqtt])
def test_a_batch_is_refused_where_the_binding_has_none(binding: ModuleType) -> None:
    with pytest.raises(InvalidEvent, match="batch"):
        binding.decode([content_type(binding, "application/cloudevents-batch+json")], b"[]")


@pytest.mark.parametrize("name", LEAST)
def test_a_required_attribute_may_not_be_missing_or_empty(binding: ModuleType, name: str) -> None:
    without = [pair for pair in headers(binding) if pair[0] != f"{binding.BINDING.prefix}{name}"]
    with pytest.raises(InvalidEvent):
        binding.decode(without, b"x")
    with pytest.raises(InvalidEvent, match=name):
        binding.decode(headers(binding, **{name: ""}), b"x")


def test_an_attribute_given_twice_is_refused(binding: ModuleType) -> None:
    for extra in (header(binding, "id", "2"), header(binding, "id", "1"), header(binding, "ext", "a")):
        with pytest.raises(InvalidEvent, match="more than once"):
            binding.decode([*headers(binding, ext="a"), extra], b"x")


def test_an_unknown_specversion_is_refused(binding: ModuleType) -> None:
    with pytest.raises(InvalidEvent, match="specversion"):
        binding.decode(headers(binding, specversion="0.3"), b"x")


def test_an_empty_subject_is_refused_and_an_empty_extension_kept(binding: ModuleType) -> None:
    with pytest.raises(InvalidEvent, match="subject"):
        binding.decode(headers(binding, subject=""), b"x")
    assert binding.decode(headers(binding, ext=""), b"x")[0]["ext"] == ""


@pytest.mark.parametrize("name", ["time", "subject", "dataschema", "datacontenttype"])
def test_an_optional_attribute_may_not_be_empty(binding: ModuleType, name: str) -> None:
    binding.decode(headers(binding, time="2018-04-05T17:31:00Z", subject="s"), b"x")  # the names are known now
    for tolerant in (False, True):
        with pytest.raises(InvalidEvent, match=name):
            binding.decode(headers(binding, **{name: ""}), b"x", tolerant=tolerant)


def test_two_content_types_of_which_one_is_an_events_are_refused(binding: ModuleType) -> None:
    structured, plain = content_type(binding, "application/cloudevents+json"), content_type(binding, "text/plain")
    body = Event(type="t", source="/").to_json()
    binding.decode([structured], body)
    for both in ([structured, plain], [plain, structured], [structured, structured]):
        with pytest.raises(InvalidEvent, match="more than one content-type"):
            binding.decode(both, body)


@pytest.mark.parametrize("binding", [kafka, nats, mqtt])
def test_an_attribute_that_says_structured_does_not_decide_the_mode(binding: ModuleType) -> None:
    inner = Event(type="inner", source="/").to_json()
    for _ in range(2):
        [event] = binding.decode(headers(binding, datacontenttype="application/cloudevents+json"), inner)
        assert (event.type, event.raw) == ("order.created", inner)


def test_structured_messages_are_read_alike_with_and_without_other_headers(binding: ModuleType) -> None:
    event = Event(type="t", source="/", count=10, data={"a": 1})
    other = ("x-other", b"\xff" if binding is kafka else "%zz")
    for media in ("application/cloudevents+json", "application/cloudevents+json; charset=UTF-8"):
        for _ in range(2):
            for pairs in ([content_type(binding, media)], [other, content_type(binding, media)]):
                assert binding.decode(pairs, event.to_json()) == [event]
                assert binding.read(pairs, bytearray(event.to_json())) == event
                with pytest.raises(InvalidEvent, match="JSON"):
                    binding.decode(pairs, b"{")


def test_a_message_that_is_no_event_is_refused_by_decode_and_none_to_read(binding: ModuleType) -> None:
    for pairs, body in (
        ([], b"x"),
        ([], b""),
        ([content_type(binding, "application/json")], b'{"a":1}'),
        ([content_type(binding, "application/json")], Event(type="t", source="/").to_json()),
        ([("host", b"x" if binding is kafka else "x")], b"[1]"),
    ):
        with pytest.raises(InvalidEvent, match="no CloudEvent"):
            binding.decode(pairs, body)
        assert binding.read(pairs, body) is None
        assert binding.mode(pairs, body) == "plain"


def test_read_gives_what_decode_gives(binding: ModuleType) -> None:
    event = Event(type="t", source="/", subject="100% €", data={"a": 1})
    for message in (binding.binary(event), binding.structured(event)):
        assert binding.read(*message) == event
        assert binding.read(*message, tolerant=True) == event
    with pytest.raises(InvalidEvent):
        binding.read(headers(binding, id=""), b"x")


def test_the_quick_path_and_the_exact_path_agree(binding: ModuleType) -> None:
    event = Event(type="t", source="/", subject="s", ext=1, datacontenttype="application/json", data={"a": 1})
    written, body = binding.binary(event)
    first, second = binding.decode_binary(written, body), binding.decode_binary(written, body)
    exactly = binding.BINDING.decode_exactly(written, body)
    assert first._attributes == second._attributes == exactly._attributes
    assert first.raw == second.raw == exactly.raw == body
    assert not first._made_id


@pytest.mark.parametrize("text", ["a b", "100%", '"quoted"', "€uro 😀", "a%20b", "\\", "ä" * 100, "  x  ", "%"])
def test_any_text_survives(binding: ModuleType, text: str) -> None:
    event = Event(type=text, source="/", subject=text, ext=text, data=b"x")
    [back] = binding.decode(*binding.binary(event))
    assert (back.type, back.subject, back["ext"]) == (text, text, text)
    [back] = binding.decode(*binding.binary(event), tolerant=True)
    assert back == event


@pytest.mark.parametrize("bad", ["a\x00b", "\x1f", "a\x7f", "\x9f", "\ufdd0", "\uffff"])
def test_text_that_strings_may_not_hold_is_refused(binding: ModuleType, bad: str) -> None:
    value = "".join(f"%{byte:02X}" for byte in bad.encode()) if binding.BINDING.percent_encoded else bad
    for tolerant in (False, True):
        with pytest.raises(InvalidEvent, match="ext"):
            binding.decode(headers(binding, ext=value), b"x", tolerant=tolerant)


@pytest.mark.parametrize("source", ["with space", "<a>"])
def test_a_source_that_is_no_uri_reference_is_refused(binding: ModuleType, source: str) -> None:
    value = source.replace(" ", "%20") if binding.BINDING.percent_encoded else source
    with pytest.raises(InvalidEvent, match="URI-reference"):
        binding.decode(headers(binding, source=value), b"x")


def test_an_implied_json_type_is_spelled(binding: ModuleType) -> None:
    event = Event(type="t", source="/", data={"a": 1})
    [back] = binding.decode(*binding.binary(event))
    assert back.datacontenttype == "application/json"
    assert back == event


def test_bytes_without_a_type_arrive_without_one(binding: ModuleType) -> None:
    [back] = binding.decode(*binding.binary(Event(type="t", source="/", data=b'{"a":1}')))
    assert back.datacontenttype is None
    assert back.data == b'{"a":1}'


def test_absent_data_stays_absent(binding: ModuleType) -> None:
    for attributes in ({}, {"datacontenttype": "application/json"}):
        event = Event(type="t", source="/", **attributes)
        [back] = binding.decode(*binding.binary(event))
        assert back.raw is None
        assert back == event


def test_empty_text_stays_empty(binding: ModuleType) -> None:
    [back] = binding.decode(*binding.binary(Event(type="t", source="/", data="", datacontenttype="text/plain")))
    assert back.raw == b""
    assert back.data == ""


def test_body_views_are_read(binding: ModuleType) -> None:
    for body in (bytearray(b"abc"), memoryview(b"abc")):
        assert binding.decode(headers(binding), body)[0].raw == b"abc"


def test_the_name_tables_are_bounded(binding: ModuleType) -> None:
    for index in range(3_000):
        [event] = binding.decode(headers(binding, **{f"bounded{index}": "x"}), b"x")
        assert event[f"bounded{index}"] == "x"
    assert len(binding.BINDING.names) <= 1_024


def test_names_of_others_do_not_keep_the_quick_path_from_ours(binding: ModuleType) -> None:
    strange = [header(binding, f"strange{index}", "x") for index in range(2_000)]
    binding.decode([*headers(binding), *strange], b"x")
    later = headers(binding, cameafterwards="x")
    binding.decode(later, b"x")
    assert {name for name, _ in later} <= binding.BINDING.names.keys()


def test_header_values_of_a_wrong_kind_are_refused(binding: ModuleType) -> None:
    for value in (None, 5, ["a"]):
        with pytest.raises(InvalidEvent):
            binding.decode([*headers(binding), (f"{binding.BINDING.prefix}ext", value)], b"x")


def test_headers_are_read_however_a_library_hands_them_over(binding: ModuleType) -> None:
    event = Event(type="t", source="/", id="1", data=b"x")
    written, body = binding.binary(event)
    for given in (
        written,
        tuple(written),
        iter(written),
        dict(written),
        dict(written).items(),
        [list(p) for p in written],
    ):
        assert binding.decode(given, body) == [event]
    with pytest.raises(InvalidEvent, match="no CloudEvent"):
        binding.decode(None, b"x")


@pytest.mark.parametrize("body", ["text", 10**12, ["x"], object()], ids=["str", "int", "list", "object"])
def test_a_body_that_is_no_bytes_is_refused(binding: ModuleType, body: Any) -> None:
    for pairs in (headers(binding), [content_type(binding, "application/cloudevents+json")]):
        with pytest.raises(InvalidEvent, match="bytes"):
            binding.decode(pairs, body)
