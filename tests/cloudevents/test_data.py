"""Data straight to a handler's type: `data_as` and the compiled decoder behind it."""

import dataclasses
import enum
from typing import Any, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest

from headrace import Event
from headrace.cloudevents import nats
from headrace.cloudevents.data import decoder
from headrace.errors import ConfigurationError, InvalidEvent


class Order(msgspec.Struct):
    id: str
    amount: float = 0.0


@dataclasses.dataclass
class Paid:
    id: str
    amount: float


class Shape(TypedDict):
    id: str
    amount: float


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.Enum):
    RED = "red"


class Model(pydantic.BaseModel):
    id: str
    amount: float


class Tree(msgspec.Struct):
    children: "list[Tree]" = []


JSON = b'{"id":"o1","amount":12.5}'


def received(raw: bytes | None, content_type: str | None = "application/json") -> Event:
    attributes = {"specversion": "1.0", "id": "1", "source": "/", "type": "t"}
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    return Event._trusted(attributes, raw)


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        (Order, Order("o1", 12.5)),
        (Paid, Paid("o1", 12.5)),
        (Shape, {"id": "o1", "amount": 12.5}),
        (dict, {"id": "o1", "amount": 12.5}),
        (dict[str, Any], {"id": "o1", "amount": 12.5}),
        (Model, Model(id="o1", amount=12.5)),
        (Any, {"id": "o1", "amount": 12.5}),
        (object, {"id": "o1", "amount": 12.5}),
        (bytes, JSON),
        (Order | None, Order("o1", 12.5)),
    ],
)
@pytest.mark.parametrize("arrived", ["binary", "no content type", "structured", "made"])
def test_json_is_decoded_to_every_kind_of_type(wanted: Any, value: Any, arrived: str) -> None:
    event = received(JSON)
    if arrived == "no content type":
        if wanted in (Any, object):
            value = JSON
        event = received(JSON, None)
    elif arrived == "structured":
        event = Event.from_json(event.to_json())
    elif arrived == "made":
        event = Event(type="t", source="/", data={"id": "o1", "amount": 12.5})
    assert event.data_as(wanted) == value


@pytest.mark.parametrize(
    ("raw", "wanted", "value"),
    [
        (b"[1,2]", Point, Point(1, 2)),
        (b"[1,2]", list, [1, 2]),
        (b"[1,2]", list[int], [1, 2]),
        (b'"red"', Colour, Colour.RED),
        (b'"text"', str, "text"),
        (b"5", int, 5),
        (b'[{"id":"a","amount":1}]', list[Model], [Model(id="a", amount=1)]),
        (b'{"a":{"id":"a","amount":1}}', dict[str, Model], {"a": Model(id="a", amount=1)}),
        (b'{"children":[{}]}', Tree, Tree([Tree()])),
        (b"null", Order | None, None),
    ],
)
def test_values_of_json_are_decoded(raw: bytes, wanted: Any, value: Any) -> None:
    assert received(raw).data_as(wanted) == value


@pytest.mark.parametrize(
    ("raw", "content_type", "wanted", "text"),
    [
        (b"plain text", None, str, "plain text"),
        (b'"quoted"', None, str, "quoted"),
        (b"plain text", "text/plain", str, "plain text"),
        (b"Z\xfcrich", "text/plain; charset=iso-8859-1", str, "Zürich"),
        (b"<a/>", "application/xml", str, "<a/>"),
        (b"<a/>", "application/xml", str | None, "<a/>"),
        (b"opaque", "application/octet-stream", str, "opaque"),
        (b"", None, str, ""),
        (None, None, str, ""),
        (None, None, bytes, b""),
        (None, None, Order | None, None),
        (b"", "application/json", Order | None, None),
    ],
)
def test_text_and_absent_data_are_given_where_the_type_takes_them(
    raw: bytes | None, content_type: str | None, wanted: Any, text: Any
) -> None:
    assert received(raw, content_type).data_as(wanted) == text


def test_json_in_another_charset_is_decoded() -> None:
    event = received(JSON.decode().encode("utf-16"), "application/json; charset=utf-16")
    assert event.data_as(Order) == Order("o1", 12.5)
    assert event.data == {"id": "o1", "amount": 12.5}
    assert Event.from_json(event.to_json()).data == {"id": "o1", "amount": 12.5}


@pytest.mark.parametrize(
    ("raw", "wanted", "message"),
    [
        (b'{"id":5}', Order, r"data is not Order: .*str.* at `\$\.id`"),
        (b"[]", Order, r"data is not Order: .* at `\$`"),
        (b'{"id":"a"}', Paid, r"data is not Paid: .*amount"),
        (b'{"id":"a","amount":"x"}', Model, r"data is not Model: .* at `\$\.amount`"),
        (b'[{"id":"a","amount":"x"}]', list[Model], r"at `\$\.0\.amount`"),
        (b"{", Order, "data is not Order"),
        (b'{"id":"\xff"}', Order, "data is not Order"),
        (b"[" * 100_000, list, "data is not list"),
        (b"5", str, "data is not str"),
        (b'{"a":1}', list[int], r"data is not list\[int\]"),
    ],
)
def test_an_error_names_the_type_and_the_place(raw: bytes, wanted: Any, message: str) -> None:
    with pytest.raises(InvalidEvent, match=message):
        received(raw).data_as(wanted)


def test_absent_data_is_an_error_that_says_how_to_accept_it() -> None:
    with pytest.raises(InvalidEvent, match=r"Order \| None"):
        received(None).data_as(Order)


def test_data_of_another_content_type_is_not_decoded_as_json() -> None:
    with pytest.raises(InvalidEvent, match="application/xml"):
        received(JSON, "application/xml").data_as(Order)


@pytest.mark.parametrize("wanted", [complex, Event, list[complex], dict[str, Event], "nowhere"])
def test_a_type_that_nothing_decodes_to_is_refused_when_it_is_compiled(wanted: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be decoded"):
        decoder(wanted)


def test_an_unhashable_annotation_is_compiled() -> None:
    from typing import Annotated

    assert decoder(Annotated[int, msgspec.Meta(extra={"a": []})])(received(b"5")) == 5


def test_data_given_as_a_model_or_struct_is_encoded() -> None:
    assert Event(type="t", source="/", data=Order("a", 1.0)).raw == b'{"id":"a","amount":1.0}'
    assert Event(type="t", source="/", data=Model(id="a", amount=1)).raw == b'{"id":"a","amount":1.0}'
    assert Event(type="t", source="/", data=[Paid("a", 1.0)]).raw == b'[{"id":"a","amount":1.0}]'


def test_the_decoder_reads_what_a_source_delivers() -> None:
    headers = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/"), ("ce-type", "t")]
    event = nats.decode_binary([*headers, ("ce-datacontenttype", "application/json")], JSON)
    assert decoder(Order)(event) == Order("o1", 12.5)
