"""The table-driven core of the four protocol bindings.

HTTP, Kafka, NATS and MQTT map an event to a message in the same way and differ in a few facts: the prefix of header
names, how a value is written, where the content type goes, whether batches exist. Those facts are a `Binding`;
everything else is here once. Reading has a quick path for what a correct producer sends, one pass over the headers,
and an exact path that accepts or names everything else; both give the same events.

Two profiles: strict follows the documents; tolerant also reads stray percent signs, raw UTF-8 and the dialects of
sdk-go (a `content-type` header on NATS, `ce-` user properties on MQTT). Writers always follow the documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from headrace.cloudevents import json
from headrace.cloudevents.forms import BODY, JSON, PENDING
from headrace.cloudevents.headervalue import is_safe, percent_decoded, percent_encoded, value_text
from headrace.cloudevents.media import media
from headrace.cloudevents.types import (
    REMEMBERED_LENGTH,
    canonical,
    check_attributes,
    check_name,
    checked_media_types,
    checked_references,
    shown,
)
from headrace.errors import InvalidEvent, UnsupportedFormat
from headrace.event import Event

Headers: TypeAlias = Iterable[tuple[Any, Any]]
"""(name, value) pairs as a protocol's library hands them over, each str or bytes."""


class Decode(Protocol):
    """Every event of a message; `InvalidEvent` also where the message is no CloudEvent."""

    def __call__(self, headers: Headers, body: Any, *, tolerant: bool = False) -> list[Event]: ...


class Read(Protocol):
    """The one event of a message; None where the message is no CloudEvent."""

    def __call__(self, headers: Sequence[tuple[Any, Any]], body: Any, *, tolerant: bool = False) -> Event | None: ...


Mode: TypeAlias = Literal["binary", "structured", "batch", "plain"]

CONTENT_TYPE: Final = "content-type"
_ANY_FORMAT: Final = "application/cloudevents"
_NAME_TABLE_LIMIT: Final = 1024
#: What differs little from event to event: their texts are kept, for making one costs more than finding it.
_REPEATING: Final = frozenset({"specversion", "source", "type", "datacontenttype"})
_VALUE_TABLE_LIMIT: Final = 256

# What structured messages have been met with as their content type, as it is written there.
_structured_types: Final[set[str]] = {json.CONTENT_TYPE}
_STRUCTURED_TYPES_LIMIT: Final = 64

_new = object.__new__


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Binding:
    """The facts in which one protocol binding differs from the others."""

    protocol: str
    prefix: str
    """What precedes an attribute's name in a header name."""
    percent_encoded: bool
    """Values are percent-encoded ASCII (HTTP binding, 3.1.3.2) instead of UTF-8."""
    ignores_case: bool
    """Header names are compared without regard to case."""
    content_type: Literal["only", "beside", "spelled"]
    """Where binary mode puts `datacontenttype`: in the content type only; there, and an equal attribute may stand
    beside it; or spelled out as an attribute."""
    batches: bool
    sniffs_json: bool
    """A message without content type and specversion may be a structured event all the same."""
    writes_bytes: bool
    """Header values are bytes."""
    absent_body: bytes | None
    """The body of a message without data."""
    foreign_prefix: str | None = None
    """A prefix that the tolerant profile reads as well."""
    names: dict[str | bytes, str | None] = field(default_factory=dict)
    """Header names met so far and the attribute each stands for; None for no attribute, and `content-type`, which no
    attribute is called, where that header is no attribute but decides the mode. Bounded."""
    readers: dict[str | bytes, tuple[str | None, dict[Any, str] | None]] = field(default_factory=dict)
    """As ``names``, with the texts of values met so far for attributes that say the same in most events. Bounded."""

    # Reading

    def mode(self, headers: Headers, body: Any, *, tolerant: bool = False) -> Mode:
        """How a message carries its event: by content type first, then by specversion, then (NATS, MQTT) by its body.

        Raises:
            InvalidEvent: a batch where the binding has none.
            UnsupportedFormat: a structured event in a format other than JSON.
        """
        content_type: str | None = None
        essence = ""
        binary = False
        for name, value in headers:
            text = self._folded(name)
            if text.lower() == CONTENT_TYPE:
                if value is None:
                    continue
                other = value_text(value)
                found = other.partition(";")[0].strip().lower()
                if content_type is not None and (essence.startswith(_ANY_FORMAT) or found.startswith(_ANY_FORMAT)):
                    raise InvalidEvent(f"the message has more than one {CONTENT_TYPE} header")
                content_type, essence = other, found
                self._remember(name, "datacontenttype")
            elif self._attribute(text, tolerant) == "specversion":
                binary = True
        if content_type is not None and essence.startswith(_ANY_FORMAT):
            mode = self._structured_mode(essence)
            if (
                mode == "structured"
                and len(_structured_types) < _STRUCTURED_TYPES_LIMIT
                and len(content_type) <= REMEMBERED_LENGTH
            ):
                _structured_types.add(content_type)
            return mode
        if binary:
            return "binary"
        if content_type is None and self.sniffs_json and json.is_event(_body_bytes(body)):
            return "structured"
        return "plain"

    def _structured_mode(self, essence: str) -> Mode:
        if essence == json.CONTENT_TYPE:
            return "structured"
        if essence == json.BATCH_CONTENT_TYPE:
            if self.batches:
                return "batch"
            raise InvalidEvent(f"the {self.protocol} binding has no batch mode: send the events one by one")
        raise UnsupportedFormat(f"event format {shown(essence)} is not supported: {json.CONTENT_TYPE} is")

    def decode_exactly(self, headers: Headers, body: Any, *, tolerant: bool = False) -> Event:
        """One event of a message in binary mode; slower than the quick path, and says what is wrong.

        Raises:
            InvalidEvent: not a valid event.
        """
        attributes: dict[str, Any] = {}
        content_type: str | None = None
        for name, value in headers:
            text = self._folded(name)
            if text.lower() == CONTENT_TYPE:
                if content_type is not None:
                    raise InvalidEvent(f"the message has more than one {CONTENT_TYPE} header")
                content_type = value_text(value)
                self._remember(name, "datacontenttype")
                continue
            attribute = self._attribute(text, tolerant)
            if attribute is None:
                self._remember(name, None)
                continue
            check_name(attribute)
            if attribute in attributes:
                raise InvalidEvent(f"attribute {attribute!r} is given more than once")
            attributes[attribute] = self._value(attribute, value, tolerant)
            if not tolerant and (attribute != "datacontenttype" or self.content_type == "spelled"):
                self._remember(name, attribute)
        self._settle_content_type(attributes, content_type, tolerant)
        check_attributes(attributes)
        return Event._trusted(attributes, self._body(attributes.get("datacontenttype"), body))

    def _settle_content_type(self, attributes: dict[str, Any], content_type: str | None, tolerant: bool) -> None:
        spelled = attributes.get("datacontenttype")
        if self.content_type == "spelled":
            if spelled is None and content_type is not None and tolerant:
                attributes["datacontenttype"] = content_type
            return
        if spelled is not None and not tolerant:
            if self.content_type == "only":
                raise InvalidEvent(f"{self.prefix}datacontenttype must not be present: {CONTENT_TYPE} carries it")
            if content_type is not None and content_type != spelled:
                raise InvalidEvent(
                    f"{self.prefix}datacontenttype is {shown(spelled)} but {CONTENT_TYPE} is {shown(content_type)}"
                )
        if content_type is not None:
            attributes["datacontenttype"] = content_type

    def _folded(self, name: Any) -> str:
        text = name if name.__class__ is str else value_text(name)
        return text.lower() if self.ignores_case else text

    def _attribute(self, name: str, tolerant: bool) -> str | None:
        """The attribute that a header name stands for, unchecked; None where it stands for none."""
        if self.prefix:
            return name[len(self.prefix) :] if name.startswith(self.prefix) else None
        if tolerant and self.foreign_prefix is not None and name.startswith(self.foreign_prefix):
            return name[len(self.foreign_prefix) :]
        # Without a prefix, any user property that could be an attribute is one; others belong to somebody else.
        try:
            check_name(name)
        except InvalidEvent:
            return None
        return name

    def _remember(self, name: str | bytes, attribute: str | None) -> None:
        if len(name) <= REMEMBERED_LENGTH:
            # As with the tables of values: when names fill it, they do not repeat, and those that do come back at once.
            if len(self.names) >= _NAME_TABLE_LIMIT:
                self.names.clear()
                self.readers.clear()
            if attribute == "datacontenttype" and self.content_type == "spelled":
                attribute = CONTENT_TYPE if self._folded(name).lower() == CONTENT_TYPE else attribute
            self.names[name] = attribute
            self.readers[name] = (attribute, {} if attribute in _REPEATING else None)

    def _value(self, attribute: str, value: Any, tolerant: bool) -> str:
        if self.percent_encoded:
            return percent_decoded(attribute, value, tolerant=tolerant)
        if value.__class__ is str:
            return str(value)
        try:
            return str(value, "utf-8")
        except (TypeError, UnicodeDecodeError) as error:
            raise InvalidEvent(f"attribute {attribute!r} is not UTF-8 text: {error}") from None

    def _body(self, content_type: str | None, body: Any) -> bytes | None:
        if body is None:
            return None
        raw = _body_bytes(body)
        # Where absent data is an empty body too, empty data is what can be empty: never JSON, nor what has no type.
        if not raw and self.absent_body is not None and (content_type is None or media(content_type).is_json):
            return None
        return raw

    # Writing

    def binary(self, event: Event) -> tuple[list[tuple[str, Any]], Any]:
        """An event as a message in binary mode: headers and body.

        Raises:
            InvalidEvent: the data given to the event's constructor cannot be encoded.
        """
        body = event.raw
        prefix = self.prefix
        if self.writes_bytes and not self.percent_encoded and self.content_type == "beside":
            # Kafka's: values are bytes as they are.
            attributes = event._attributes
            written: list[tuple[str, Any]] = [
                (prefix + name, (value if value.__class__ is str else canonical(value)).encode())
                for name, value in attributes.items()
                if name != "datacontenttype"
            ]
            media_type = attributes.get("datacontenttype")
            if media_type is not None:
                written.append((CONTENT_TYPE, media_type.encode()))
            elif event._form is JSON:
                written.append((CONTENT_TYPE, b"application/json"))
            return written, self.absent_body if body is None else body
        headers: list[tuple[str, Any]] = []
        declared: str | None = None
        for name, value in event._attributes.items():
            text = value if value.__class__ is str else canonical(value)
            if name == "datacontenttype":
                declared = text
            else:
                headers.append((prefix + name, text))
        if declared is None and event._form is JSON:
            declared = "application/json"
        if declared is not None and self.content_type == "spelled":
            headers.append((prefix + "datacontenttype", declared))
        if self.percent_encoded and not is_safe("".join([text for _, text in headers])):
            headers = [(name, percent_encoded(text)) for name, text in headers]
        if declared is not None and self.content_type != "spelled":
            headers.append((CONTENT_TYPE, declared))
        return self._written(headers), self.absent_body if body is None else body

    def structured(self, event: Event) -> tuple[list[tuple[str, Any]], bytes]:
        """An event as a message in structured mode, JSON: headers and body.

        Raises:
            InvalidEvent: the data given to the event's constructor cannot be encoded.
        """
        return self._written([(CONTENT_TYPE, json.CONTENT_TYPE)]), json.encode(event)

    def batch(self, events: Iterable[Event]) -> tuple[list[tuple[str, Any]], bytes]:
        """Events as one message in batched mode, JSON: headers and body.

        Raises:
            InvalidEvent: the data given to an event's constructor cannot be encoded.
        """
        return self._written([(CONTENT_TYPE, json.BATCH_CONTENT_TYPE)]), json.batch(events)

    def _written(self, headers: list[tuple[str, str]]) -> list[tuple[str, Any]]:
        return [(name, text.encode("utf-8")) for name, text in headers] if self.writes_bytes else headers


class Codec(NamedTuple):
    """What a binding's module reads with."""

    decode: Decode
    decode_binary: Callable[[Sequence[tuple[Any, Any]], Any], Event]
    read: Read


def compiled(binding: Binding) -> Codec:
    """The functions of a binding's module, each on the quick path where the message allows it."""

    def read_exactly(headers: Sequence[tuple[Any, Any]], body: Any, tolerant: bool) -> Event | None:
        mode = binding.mode(headers, body, tolerant=tolerant)
        if mode == "plain":
            return None
        if mode == "binary":
            return binding.decode_exactly(headers, body, tolerant=tolerant)
        if mode == "structured":
            return json.decode(_body_bytes(body))
        raise InvalidEvent("a batch of events arrived where one event is read")

    def decode_exactly(headers: Sequence[tuple[Any, Any]], body: Any, tolerant: bool) -> Event:
        return binding.decode_exactly(headers, body, tolerant=tolerant)

    def decode_any(headers: Headers, body: Any, tolerant: bool) -> list[Event]:
        pairs = headers if isinstance(headers, (list, tuple)) else _pairs(headers)
        if binding.batches and binding.mode(pairs, body, tolerant=tolerant) == "batch":
            return json.decode_batch(_body_bytes(body))
        event = read_exactly(pairs, body, tolerant)
        if event is None:
            raise InvalidEvent(
                f"the message is no CloudEvent: its content type is not {_ANY_FORMAT}…, "
                f"and it has no {binding.prefix}specversion"
            )
        return [event]

    return Codec(
        _quick(binding, decode_any, listed=True),
        _quick(binding, decode_exactly),
        _quick(binding, read_exactly),
    )


def _quick(binding: Binding, otherwise: Callable[[Any, Any, bool], Any], *, listed: bool = False) -> Any:
    """Compile the quick path: messages in binary mode that need no decoding beyond UTF-8, and structured ones.

    Names met before, values without escapes, no attribute twice, a body; everything else is `otherwise`'s.

    Args:
        listed: the function gives a list of the one event.
    """
    readers = binding.readers
    percent = binding.percent_encoded
    spelled = binding.content_type == "spelled"
    declares = CONTENT_TYPE if spelled else "datacontenttype"

    def quick(headers: Any, body: Any, *, tolerant: bool = False) -> Any:
        attributes: dict[str, Any] = {}
        passed_over = 0
        unseen = ""
        learning = False
        try:
            _ = headers[0]  # no sequence at all, an iterator for one, is read once only
            for name, value in headers:
                attribute, known = readers[name]
                if known is not None:
                    if value in known:
                        attributes[attribute] = known[value]  # type: ignore[index]
                        continue
                    learning = True
                elif attribute is None:
                    passed_over += 1
                    continue
                # Libraries give either str or bytes.
                text = value if value.__class__ is str else value.decode()
                attributes[attribute] = text  # type: ignore[index]
                unseen += text
            if (
                unseen.isprintable()
                and (not percent or (unseen.isascii() and "%" not in unseen and '"' not in unseen))
                and len(attributes) + passed_over == len(headers)
                and body.__class__ is bytes
                and not tolerant
            ):
                if (
                    "specversion" in attributes
                    and attributes["specversion"] == "1.0"
                    and attributes["source"] in checked_references
                    and ("datacontenttype" not in attributes or attributes["datacontenttype"] in checked_media_types)
                    and attributes["id"]
                    and attributes["type"]
                    and ("subject" not in attributes or attributes["subject"])
                    and ("time" not in attributes or attributes["time"])
                    and "dataschema" not in attributes
                    and body
                    and not (spelled and CONTENT_TYPE in attributes)
                ):
                    if learning:
                        _learn(readers, headers, attributes)
                    # As Event._trusted, without the call.
                    event = _new(Event)
                    event._attributes = attributes
                    event._raw = body
                    event._data = PENDING
                    event._form = BODY
                    event._made_id = False
                    return [event] if listed else event
                if attributes.get(declares) in _structured_types:
                    event = json.decode(body)
                    return [event] if listed else event
        except InvalidEvent:
            raise
        except (LookupError, ValueError, AttributeError, TypeError):
            # A name not met before, or a value that is no text: the exact path learns the one and names the other.
            return otherwise(headers, body, tolerant)
        return otherwise(headers, body, tolerant)

    return quick


def _learn(readers: Mapping[Any, tuple[str | None, dict[Any, str] | None]], headers: Any, attributes: Any) -> None:
    """Keep the texts of a message's values that are likely to come again."""
    for name, value in headers:
        attribute, known = readers[name]
        if known is not None and value not in known and len(value) <= REMEMBERED_LENGTH:
            if len(known) >= _VALUE_TABLE_LIMIT:
                known.clear()
            known[value] = attributes[attribute]


def _pairs(headers: Any) -> list[tuple[Any, Any]]:
    """Headers that came in no sequence: None for none at all, as Kafka's clients have it, or a mapping."""
    return list((headers.items() if isinstance(headers, Mapping) else headers) or ())


def _body_bytes(body: Any) -> bytes:
    if body.__class__ is bytes:
        return body
    try:
        return b"" if body is None else bytes(memoryview(body))
    except TypeError:
        raise InvalidEvent(f"the body of a message is bytes, not {type(body).__name__}") from None
