"""The HTTP binding's own rules: header names, percent-encoding, quoted strings, batches."""

import pytest

from headrace import Event
from headrace.cloudevents import http
from headrace.errors import InvalidEvent

LEAST = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/shop"), ("ce-type", "order.created")]


def read(value: str, *, tolerant: bool = False) -> str:
    [event] = http.decode([*LEAST, ("ce-ext", value)], b"", tolerant=tolerant)
    text: str = event["ext"]
    return text


def test_the_example_of_the_document_is_written_as_it_says() -> None:
    headers, _ = http.binary(Event(type="t", source="/", ext="Euro € 😀"))
    assert ("ce-ext", "Euro%20%E2%82%AC%20%F0%9F%98%80") in headers
    assert read("Euro%20%E2%82%AC%20%F0%9F%98%80") == "Euro € 😀"


def test_exactly_what_must_be_encoded_is() -> None:
    printable = "".join(map(chr, range(0x20, 0x7F)))
    headers, _ = http.binary(Event(type="t", source="/", ext=printable))
    expected = printable.replace("%", "%25").replace(" ", "%20").replace('"', "%22")
    assert dict(headers)["ce-ext"] == expected


def test_needless_and_lower_case_escapes_are_read() -> None:
    assert read("%61%62c") == "abc"
    assert read("%e2%82%ac") == "€"


@pytest.mark.parametrize("value", ["a=b", "=3D", "a==", "=", "x=%20=", "_", "a%3Db  "])
def test_an_equals_sign_has_no_meaning(value: str) -> None:
    assert read(value + "%41") == value.replace("%20", " ").replace("%3D", "=") + "A"


@pytest.mark.parametrize("value", ["a=\nb%41", "%41\r\n", "%\n"])
def test_a_line_break_is_refused(value: str) -> None:
    for tolerant in (False, True):
        with pytest.raises(InvalidEvent):
            read(value, tolerant=tolerant)


def test_every_byte_is_decoded_from_either_case() -> None:
    for code in (*range(0x20, 0x7F), 0xE9, 0x20AC, 0x1F600):
        upper = "".join(f"%{byte:02X}" for byte in chr(code).encode())
        assert read(f"a{upper}b") == read(f"a{upper.lower()}b") == f"a{chr(code)}b"


def test_one_round_is_decoded() -> None:
    assert read("%2520") == "%20"


@pytest.mark.parametrize("value", ["%C0%A0", "%FF", "%E2%82", "%ED%A0%80", "%F4%90%80%80"])
def test_escapes_that_are_not_utf_8_are_refused_by_both_profiles(value: str) -> None:
    for tolerant in (False, True):
        with pytest.raises(InvalidEvent, match="UTF-8"):
            read(value, tolerant=tolerant)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('"quoted"', "quoted"),
        ('"a \\"b\\" \\\\c"', 'a "b" \\c'),
        ('"Euro%20%E2%82%AC"', "Euro €"),
        ('""', ""),
        ('a"b', 'a"b'),
        ("plain with space", "plain with space"),
    ],
)
def test_quoted_strings_of_older_producers_are_unescaped_first(value: str, text: str) -> None:
    assert read(value) == text


@pytest.mark.parametrize("value", ['"', '"open', '"a"b"', '"a\\"'])
def test_a_broken_quoted_string_is_refused_and_taken_as_it_is_when_tolerant(value: str) -> None:
    with pytest.raises(InvalidEvent, match="quoted"):
        read(value)
    assert read(value, tolerant=True) == value


@pytest.mark.parametrize("value", ["100%", "%", "%4", "%zz", "a%2"])
def test_a_stray_percent_is_refused_and_taken_as_it_is_when_tolerant(value: str) -> None:
    with pytest.raises(InvalidEvent, match="percent"):
        read(value)
    assert read(value, tolerant=True) == value


@pytest.mark.parametrize(
    "value", ["€".encode(), "€", "€".encode().decode("latin-1"), "€".encode().decode("ascii", "surrogateescape")]
)
def test_raw_utf_8_is_refused_and_read_when_tolerant(value: str | bytes) -> None:
    headers: list[tuple[str, str | bytes]] = [*LEAST, ("ce-ext", value)]
    with pytest.raises(InvalidEvent, match="percent-encoded"):
        http.decode(headers, b"")
    assert http.decode(headers, b"", tolerant=True)[0]["ext"] == "€"


def test_raw_bytes_that_are_not_utf_8_are_refused_by_both_profiles() -> None:
    for tolerant in (False, True):
        with pytest.raises(InvalidEvent):
            http.decode([*LEAST, ("ce-ext", b"\xff")], b"", tolerant=tolerant)


def test_names_are_compared_without_regard_to_case() -> None:
    [event] = http.decode(
        [(name.title(), value) for name, value in LEAST] + [("CE-EXT", "x"), ("Content-Type", "a/b")], b"x"
    )
    assert (event.id, event["ext"], event.datacontenttype) == ("1", "x", "a/b")


def test_bytes_and_str_headers_are_read_alike() -> None:
    pairs = [(name.encode(), value.encode()) for name, value in LEAST]
    assert http.decode(pairs, b"x") == http.decode(LEAST, b"x")
    assert http.decode([*pairs[:2], *LEAST[2:]], b"x") == http.decode(LEAST, b"x")


def test_other_headers_are_passed_over() -> None:
    [event] = http.decode([("host", "a"), ("accept", "é"), *LEAST, ("accept", "b"), ("x-ce-id", "2")], b"x")
    assert event == http.decode(LEAST, b"x")[0]


def test_ce_datacontenttype_must_not_be_present() -> None:
    for pairs in ([], [("content-type", "application/json")]):
        with pytest.raises(InvalidEvent, match="ce-datacontenttype must not be present"):
            http.decode([*LEAST, *pairs, ("ce-datacontenttype", "application/json")], b"{}")
    assert http.decode([*LEAST, ("ce-datacontenttype", "a/b")], b"x", tolerant=True)[0].datacontenttype == "a/b"


@pytest.mark.parametrize("name", ["ce-", "ce-data", "ce-my_ext", "ce-my-ext", "ce-é"])
def test_a_ce_header_that_names_no_attribute_is_refused(name: str) -> None:
    with pytest.raises(InvalidEvent, match="attribute name"):
        http.decode([*LEAST, (name, "x")], b"x")


def test_two_content_types_are_refused() -> None:
    with pytest.raises(InvalidEvent, match="more than one content-type"):
        http.decode([*LEAST, ("content-type", "a/b"), ("Content-Type", "a/b")], b"x")


def test_a_content_type_that_is_no_media_type_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="media type"):
        http.decode([*LEAST, ("content-type", "json")], b"x")


def test_batches_are_read_and_written() -> None:
    events = [Event(type="t", source="/", data=index) for index in range(3)]
    headers, body = http.batch(events)
    assert headers == [("content-type", "application/cloudevents-batch+json")]
    assert http.decode(headers, body) == events
    assert http.decode(*http.batch([])) == []
    assert http.mode(headers, body) == "batch"
    with pytest.raises(InvalidEvent, match="one event is read"):
        http.read(headers, body)


def test_structured_mode_is_json_without_metadata_headers() -> None:
    headers, body = http.structured(Event(type="t", source="/", id="1"))
    assert [name for name, _ in headers] == ["content-type"]
    assert Event.from_json(body).id == "1"
