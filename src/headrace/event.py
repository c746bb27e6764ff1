"""The event: an immutable CloudEvents 1.0 event, context attributes and data.

It is the hottest object of the program, so it is slotted, holds attributes as they arrived, and does nothing before
it is
asked: data is decoded, time is parsed and canonical strings are made on first use. The constructor checks everything;
`Event._trusted` checks nothing and is for decoders that already have.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Any, Final, TypeVar, cast

from headrace.cloudevents.forms import BODY, JSON, PENDING, TEXT, Form, form_of, form_of_bytes
from headrace.cloudevents.media import media
from headrace.cloudevents.types import (
    Attribute,
    canonical,
    check_name,
    check_required,
    check_value,
    checked_references,
    format_time,
    parse_time,
)
from headrace.errors import InvalidEvent
from headrace.identifiers import random_id

T = TypeVar("T")

_new = object.__new__
_KEEP: Final[Any] = object()


class _Codecs:
    """The modules that come with the first event that is read or written; an import statement in a method costs as much as the
    method."""

    json: Any = None
    data: Any = None
    decoders: dict[Any, Any] = {}  # noqa: RUF012 - the codec's own table

    @classmethod
    def load(cls) -> type[_Codecs]:
        from headrace.cloudevents import data, json

        cls.json, cls.data, cls.decoders = json, data, data.decoders
        return cls


class Event:
    """One CloudEvent.

    Args:
        type: what happened, such as `order.created`.
        source: where it happened, a URI-reference.
        data: bytes stay as they are, a JSON text where `datacontenttype` says so; anything else is encoded when it is
            needed, as JSON unless `datacontenttype` says otherwise. None is an event without data (JSON's null is
            `b"null"` with a JSON content type).
        id: unique within the source; a random UUID when not given. Nothing else is invented.
        time: an aware datetime, or RFC 3339 text, which is kept as it is written.
        subject: what the event is about within the source.
        datacontenttype: the media type of data.
        dataschema: an absolute URI.
        extensions: further attributes; None leaves one out.

    Raises:
        InvalidEvent: an attribute that the specification does not allow.
    """

    __slots__ = ("_attributes", "_data", "_form", "_made_id", "_raw")

    _attributes: dict[str, Any]
    _raw: Any
    _data: Any
    _form: Form
    _made_id: bool

    def __init__(
        self,
        /,
        type: str,
        source: str,
        data: Any = None,
        *,
        id: str | None = None,
        time: datetime | str | None = None,
        subject: str | None = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
        specversion: str = "1.0",
        **extensions: Attribute | None,
    ) -> None:
        attributes: dict[str, Any] = {
            "specversion": specversion,
            "id": random_id() if id is None else id,
            "source": source,
            "type": type,
        }
        if subject is not None:
            attributes["subject"] = subject
        if time is not None:
            attributes["time"] = _time_text(time)
        if datacontenttype is not None:
            attributes["datacontenttype"] = datacontenttype
        if dataschema is not None:
            attributes["dataschema"] = dataschema
        if (
            id is not None
            or len(attributes) > 4
            or specversion != "1.0"
            or source.__class__ is not str
            or source not in checked_references
            or type.__class__ is not str
            or not type
            or not type.isprintable()
        ):
            for name, value in attributes.items():
                attributes[name] = _checked(name, value)
        for name, extension in extensions.items():
            if extension is not None:
                check_name(name)
                attributes[name] = _checked(name, extension)
        self._attributes = attributes
        self._made_id = id is None
        self._set_data(data)

    def _set_data(self, data: Any) -> None:
        if data is None:
            self._raw, self._data, self._form = None, None, BODY
        elif isinstance(data, (bytes, bytearray, memoryview)):
            raw = bytes(data)
            self._raw, self._data, self._form = (
                raw,
                PENDING,
                form_of_bytes(raw, self._attributes.get("datacontenttype")),
            )
        else:
            self._raw, self._data = PENDING, data
            self._form = form_of(data, self._attributes.get("datacontenttype"))

    @staticmethod
    def _trusted(attributes: dict[str, Any], raw: bytes | None) -> Event:
        """An event of attributes that a decoder has checked; neither argument is copied."""
        event = _new(Event)
        event._attributes = attributes
        event._raw = raw
        event._data = PENDING
        event._form = BODY
        event._made_id = False
        return event

    @staticmethod
    def _formed(attributes: dict[str, Any], raw: Any, data: Any, form: Form) -> Event:
        """As `_trusted`, for data that arrived in another form than a message body."""
        event = _new(Event)
        event._attributes = attributes
        event._raw = raw
        event._data = data
        event._form = form
        event._made_id = False
        return event

    # Context attributes

    @property
    def id(self) -> str:
        """Identifies the event together with its source."""
        return cast(str, self._attributes["id"])

    @property
    def source(self) -> str:
        """The context in which the event happened, a URI-reference."""
        return cast(str, self._attributes["source"])

    @property
    def type(self) -> str:
        """What happened."""
        return cast(str, self._attributes["type"])

    @property
    def specversion(self) -> str:
        """Always `1.0`."""
        return cast(str, self._attributes["specversion"])

    @property
    def subject(self) -> str | None:
        """What the event is about within the source."""
        return self._attributes.get("subject")

    @property
    def datacontenttype(self) -> str | None:
        """The media type of data as it was given; None where none was."""
        return self._attributes.get("datacontenttype")

    @property
    def dataschema(self) -> str | None:
        """The schema that data adheres to, an absolute URI."""
        return self._attributes.get("dataschema")

    @property
    def time(self) -> datetime | None:
        """When it happened, parsed on each read; `attributes["time"]` is the text as received.

        Raises:
            InvalidEvent: the text is not RFC 3339.
        """
        text = self._attributes.get("time")
        return None if text is None else parse_time(text)

    @property
    def attributes(self) -> dict[str, str]:
        """Every context attribute as its canonical string, in a new dict."""
        return {name: canonical(value) for name, value in self._attributes.items()}

    def __getitem__(self, name: str) -> Any:
        """An attribute by name, in the type it arrived in; KeyError where the event has none of that name."""
        return self._attributes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._attributes

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute by name, in the type it arrived in, or `default`."""
        return self._attributes.get(name, default)

    __iter__ = None

    # Data

    @property
    def raw(self) -> bytes | None:
        """Data as the bytes of a message body; None where the event has no data.

        Raises:
            InvalidEvent: the data given to the constructor cannot be encoded.
        """
        raw = self._raw
        if raw is None or raw.__class__ is bytes:
            return raw
        if raw is PENDING:
            codec = _Codecs.data or _Codecs.load().data
            encoded: bytes = codec.encode_data(self._data, self._attributes.get("datacontenttype"))
        else:
            encoded = bytes(raw)
        self._raw = encoded
        return encoded

    @property
    def data(self) -> Any:
        """Data decoded by its content type: JSON to Python values, text to str, everything else as bytes.

        Decoded on first use and kept. None where the event has no data (then `raw` is None too) and for JSON's null.

        Raises:
            InvalidEvent: the bytes are not what the content type declares.
        """
        data = self._data
        if data is PENDING:
            codec = _Codecs.data or _Codecs.load().data
            data = self._data = codec.decode_data(self._raw, self._form, self._attributes.get("datacontenttype"))
        return data

    def data_as(self, wanted: builtins.type[T]) -> T:
        """Data decoded straight from its bytes to a type, as handlers get it.

        Args:
            wanted: a msgspec Struct, pydantic model, dataclass, TypedDict, str, bytes or anything msgspec knows.

        Raises:
            InvalidEvent: data is not of that type; the message names the type and the place in the data.
            ConfigurationError: data cannot be decoded to such a type at all.
        """
        try:
            typed = _Codecs.decoders[wanted]
        except (KeyError, TypeError):
            typed = _Codecs.load().data.decoder(wanted)
        value: T = typed(self)
        return value

    # The JSON format

    @staticmethod
    def from_json(text: bytes | str) -> Event:
        """An event from the JSON format.

        Raises:
            InvalidEvent: not JSON, or no valid event.
        """
        codec = _Codecs.json or _Codecs.load().json
        event: Event = codec.decode(text)
        return event

    @staticmethod
    def from_json_batch(text: bytes | str) -> list[Event]:
        """The events of the JSON batch format; one bad member rejects the batch and is named by its index.

        Raises:
            InvalidEvent: not a JSON array of valid events.
        """
        codec = _Codecs.json or _Codecs.load().json
        events: list[Event] = codec.decode_batch(text)
        return events

    def to_json(self) -> bytes:
        """The event in the JSON format, UTF-8.

        Raises:
            InvalidEvent: the data given to the constructor cannot be encoded.
        """
        codec = _Codecs.json or _Codecs.load().json
        written: bytes = codec.encode(self)
        return written

    # The official Python SDK

    @staticmethod
    def from_sdk(event: Any) -> Event:
        """An event of the official Python SDK (`cloudevents` 1 or 2) as ours.

        Raises:
            InvalidEvent: the SDK let something pass that the specification does not allow.
        """
        from headrace.cloudevents import sdk

        return sdk.from_sdk(event)

    def to_sdk(self) -> Any:
        """The event as one of the official Python SDK, which must be installed."""
        from headrace.cloudevents import sdk

        return sdk.to_sdk(self)

    # Values

    def replace(self, /, *, data: Any = _KEEP, **attributes: Attribute | None) -> Event:
        """A copy with other attributes; None removes one. Data is shared unless `data` is given.

        Raises:
            InvalidEvent: a value that is not allowed, or a required attribute removed.
        """
        merged = dict(self._attributes)
        for name, value in attributes.items():
            if value is None:
                merged.pop(name, None)
                continue
            check_name(name)
            if name == "time" and isinstance(value, (str, datetime)):
                value = _time_text(value)
            merged[name] = _checked(name, value)
        check_required(merged)
        copy = Event._formed(merged, self._raw, self._data, self._form)
        copy._made_id = self._made_id and "id" not in attributes
        if data is not _KEEP:
            copy._set_data(data)
        elif "datacontenttype" in attributes and merged.get("datacontenttype") != self.datacontenttype:
            # The bytes stay; what they mean is what the new content type says.
            copy._raw, copy._data = self.raw, PENDING
            copy._form = JSON if self._form is JSON and "datacontenttype" not in merged else BODY
        return copy

    def __eq__(self, other: object) -> bool:
        """Attributes are compared by canonical string; data by its bytes, or by its JSON value where it is JSON.

        Data of no length equals absent data, since no binding but Kafka can tell them apart, and an implied content
        type equals the spelled one (JSON format 1.0.2, section 3.1).
        """
        if self is other:
            return True
        if not isinstance(other, Event):
            return NotImplemented
        if self._comparable() != other._comparable():
            return False
        from headrace.cloudevents.data import decode_json, sorted_json

        try:
            mine, theirs = self.raw, other.raw
            if (mine or b"") == (theirs or b""):
                return True
            if mine is None or theirs is None or not self._is_json():
                return False
            return sorted_json(decode_json(mine, self.datacontenttype)) == sorted_json(
                decode_json(theirs, other.datacontenttype)
            )
        except InvalidEvent:
            # Data that cannot be read or written as it is declared is equal to itself only.
            return self._raw is PENDING and other._raw is PENDING and bool(self._data == other._data)

    def __hash__(self) -> int:
        return hash((self.source, self.id))

    def _is_json(self) -> bool:
        declared = self.datacontenttype
        return self._form is JSON if declared is None else media(declared).is_json

    def _comparable(self) -> dict[str, str]:
        attributes = self.attributes
        if self._form is JSON:
            attributes.setdefault("datacontenttype", "application/json")
        return attributes

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._attributes.items() if name != "specversion")
        return f"Event({shown})" if self._raw is None else f"Event({shown}, data=…)"

    def __reduce__(self) -> tuple[Any, ...]:
        # Text whose charset is not known has no bytes, and is kept as it is.
        text = self._data if self._form is TEXT and self._raw is PENDING else None
        return _restore, (self._attributes, self.raw if text is None else None, text, self._form, self._made_id)

    def __copy__(self) -> Event:
        return self

    def __deepcopy__(self, memo: object) -> Event:
        return self


def _restore(attributes: dict[str, Any], raw: bytes | None, text: str | None, form: Form, made_id: bool) -> Event:
    known = text is None
    event = Event._formed(attributes, raw if known else PENDING, PENDING if known else text, form)
    event._made_id = made_id
    return event


def _checked(name: str, value: Any) -> Any:
    """A value that an attribute may have; text of a subclass of str, such as an enumeration's, as plain str."""
    if isinstance(value, str) and value.__class__ is not str:
        value = value[:]
    check_value(name, value)
    return value


def _time_text(time: datetime | str) -> str:
    """The text that is kept as the `time` attribute; what a producer gives is checked at once."""
    if isinstance(time, datetime):
        return format_time(time)
    if isinstance(time, str):
        parse_time(time)
        return time
    raise InvalidEvent(f"attribute 'time' must be a datetime or RFC 3339 text, not {type(time).__name__}")
