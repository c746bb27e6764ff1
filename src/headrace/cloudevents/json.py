"""The JSON event format and its batch form, both ways.

Decoding takes one pass over the text: the envelope is read into a record of known member names and data stays the
bytes it is, to be decoded when it is asked for. Names that the record does not know are read the slow way once, then
learned; the table of learned names is bounded, so that hostile names cost time but never memory.

Source: CloudEvents JSON format 1.0.2. Of a member name that occurs twice the last value counts (RFC 8259, 4, leaves
that open); everything else that the format does not allow is refused.
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Callable, Iterable
from keyword import iskeyword
from typing import Annotated, Any, Final, Literal

import msgspec

from headrace.cloudevents.data import in_utf8, is_json_text
from headrace.cloudevents.forms import BODY, BYTES, JSON, PENDING, TEXT
from headrace.cloudevents.media import decode_text, encode_text, media
from headrace.cloudevents.types import (
    CORE,
    INTEGER_MAX,
    INTEGER_MIN,
    REMEMBERED_LENGTH,
    canonical,
    check_attributes,
    check_name,
    check_required,
    check_value,
    checked_media_types,
    checked_references,
    shown,
)
from headrace.errors import InvalidEvent
from headrace.event import Event

CONTENT_TYPE: Final = "application/cloudevents+json"
BATCH_CONTENT_TYPE: Final = "application/cloudevents-batch+json"

_LEARNED_LIMIT: Final = 8
_MEMBER_LIMIT: Final = 1024
_FORWARDED_SIZE: Final = 64 * 1024
_MEMBER_BYTES: Final = 128
_MEMORY_FACTOR: Final = 10

_BAD_JSON = (msgspec.MsgspecError, UnicodeError, RecursionError)
_INTEGER = re.compile(rb"-?\d{1,10}")
_INDEX = re.compile(r"`\$\[(\d+)\]")
_HALF_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u)")

_NULL = msgspec.Raw(b"null")
_WHITE_SPACE = b" \t\r\n"
_BACKSLASH, _DELETE = 0x5C, 0x7F


class _Tables:
    """The compiled readers of the envelope; rebuilt when a name is learned."""

    learned: tuple[str, ...] = ("partitionkey", "traceparent", "tracestate")
    one: Callable[[Any], Any]
    many: Callable[[Any], list[Any]]

    @classmethod
    def learn(cls, names: Iterable[str]) -> None:
        # A record's fields are Python names, which attributes such as `1st` and `class` are not.
        new = tuple(
            name
            for name in names
            if name not in CORE
            and name not in cls.learned
            and name.isidentifier()
            and not iskeyword(name)
            and len(name) <= REMEMBERED_LENGTH
        )
        if new and len(cls.learned) < _LEARNED_LIMIT:
            cls.learned = (*cls.learned, *new)[:_LEARNED_LIMIT]
            cls.build()

    @classmethod
    def build(cls) -> None:
        text = Annotated[str, msgspec.Meta(min_length=1)]
        integer = Annotated[int, msgspec.Meta(ge=INTEGER_MIN, le=INTEGER_MAX)]
        extension = bool | integer | str | None
        envelope = msgspec.defstruct(
            "Envelope",
            [
                ("specversion", Literal["1.0"]),
                *((name, text) for name in ("id", "source", "type")),
                *((name, text | None, None) for name in ("time", "subject", "datacontenttype", "dataschema")),
                *((name, extension, None) for name in cls.learned),
                ("data", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET),
                ("data_base64", str | None, None),
            ],
            forbid_unknown_fields=True,
            omit_defaults=True,
            gc=False,
        )
        cls.many = msgspec.json.Decoder(list[envelope]).decode  # type: ignore[valid-type]
        cls.one = msgspec.json.Decoder(envelope).decode


_Tables.build()


class _Least(msgspec.Struct, gc=False):
    """What every event holds. Reading it first keeps a batch such as `[1,1,1…]` from becoming a large list."""

    specversion: str
    id: str
    source: str
    type: str


class _Data(msgspec.Struct, gc=False):
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_least = msgspec.json.Decoder(_Least).decode
_decode_least_batch = msgspec.json.Decoder(list[_Least]).decode
_decode_data_only = msgspec.json.Decoder(_Data).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_str = msgspec.json.Decoder(str).decode
_new = object.__new__
_ABSENT: Final[Any] = msgspec.UNSET
_to_dict: Callable[[Any], dict[str, Any]] = msgspec.to_builtins


def decode(text: bytes | str) -> Event:
    """One event from its JSON format.

    Raises:
        InvalidEvent: not JSON, or no valid event.
    """
    if text.__class__ is not bytes:
        text = _in_bytes(text)
    try:
        envelope = _Tables.one(text)
    except msgspec.ValidationError:
        return _decode_slowly(text)
    except _BAD_JSON as error:
        raise _not_json(error, text) from None
    data = envelope.data
    declared = envelope.datacontenttype
    # The common event is settled here, without a call; `_from_envelope` does the same for all others.
    if (
        data is not _ABSENT
        and (declared == "application/json" or declared is None)
        and text.isascii()
        and _BACKSLASH not in text
        and _DELETE not in text
        and envelope.source in checked_references
        and envelope.dataschema is None
        and envelope.data_base64 is None
    ):
        envelope.data = _ABSENT
        event = _new(Event)
        event._attributes = _to_dict(envelope)
        event._raw = data
        event._data = PENDING
        event._form = JSON
        event._made_id = False
        return event
    return _from_envelope(envelope, _is_plain(text))


def decode_batch(text: bytes | str) -> list[Event]:
    """The events of a JSON batch, in order; an empty array is a batch of none.

    Raises:
        InvalidEvent: not a JSON array, or a member that is no valid event, named by its index.
    """
    if text.__class__ is not bytes:
        text = _in_bytes(text)
    try:
        envelopes = _Tables.many(text)
    except _BAD_JSON:
        return _decode_batch_slowly(text)
    plain = _is_plain(text)
    events = []
    for index, envelope in enumerate(envelopes):
        try:
            events.append(_from_envelope(envelope, plain))
        except InvalidEvent as error:
            raise _in_batch(index, error) from None
    return events


def is_event(text: bytes) -> bool:
    """Whether the text is a JSON object with the four required names, each a string: how a NATS message without content
    type is told from a plain one."""
    try:
        _decode_least(text)
    except _BAD_JSON:
        return False
    return True


def encode(event: Event) -> bytes:
    """One event in the JSON format, UTF-8. Data that arrived as JSON is written as the bytes it arrived in.

    Raises:
        InvalidEvent: the data given to the event's constructor cannot be encoded.
    """
    members = event._attributes.copy()
    for name, value in members.items():
        if value.__class__ is not str and not isinstance(value, (bool, int)):
            members[name] = canonical(value)
    if event._raw is not None:
        name, member = _data_member(event)
        members[name] = member
    try:
        return msgspec.json.encode(members)
    except UnicodeEncodeError as error:
        raise InvalidEvent(f"data is no Unicode text: lone surrogate at character {error.start}") from None


def batch(events: Iterable[Event]) -> bytes:
    """Events in the JSON batch format.

    Raises:
        InvalidEvent: as `encode`.
    """
    return b"[" + b",".join([encode(event) for event in events]) + b"]"


def _in_bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        try:
            return bytes(memoryview(text))
        except TypeError:
            raise InvalidEvent(f"an event is read from bytes or str, not {type(text).__name__}") from None
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidEvent(f"the event is not Unicode text: lone surrogate at character {error.start}") from None


def _is_plain(text: bytes) -> bool:
    """Whether no string in the text can hold anything that needs a check of its own.

    JSON allows no raw control characters in strings, so ASCII text without escapes and without U+007F holds none.

    Raises:
        InvalidEvent: not UTF-8 (the data is not looked at otherwise).
    """
    if text.isascii():
        return _BACKSLASH not in text and _DELETE not in text
    try:
        str(text, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"the event is not UTF-8 at byte {error.start}") from None
    return False


def _from_envelope(envelope: Any, plain: bool) -> Event:
    data = envelope.data
    if data is not _ABSENT:
        envelope.data = _ABSENT
    attributes = _to_dict(envelope)
    encoded = attributes.pop("data_base64", None)
    # The record has settled presence, types and lengths; what is left is rare, and settled here.
    if not (
        plain
        and attributes["source"] in checked_references
        and attributes.get("datacontenttype", "application/json") in checked_media_types
        and "dataschema" not in attributes
    ):
        check_attributes(attributes)
    return _with_data(attributes, data, encoded)


def _with_data(attributes: dict[str, Any], data: Any, encoded: str | None) -> Event:
    if data is _ABSENT:
        if encoded is None:
            return Event._trusted(attributes, None)
        return Event._formed(attributes, _from_base64(encoded), PENDING, BYTES)
    if encoded is not None:
        raise InvalidEvent("the event has both data and data_base64: only one of them is allowed")
    declared = attributes.get("datacontenttype")
    if declared is None or declared == "application/json":
        return Event._formed(attributes, data, PENDING, JSON)
    kind = media(declared)
    if kind.is_json:
        raw = data if kind.utf8 else encode_text(str(data, "utf-8"), declared)
        return Event._formed(attributes, raw, PENDING, JSON)
    try:
        return Event._formed(attributes, PENDING, _decode_str(data), TEXT)
    except _BAD_JSON as error:
        raise InvalidEvent(f"data is declared as {shown(declared)} and must be a JSON string then: {error}") from None


def _from_base64(encoded: str) -> bytes:
    try:
        return a2b_base64(encoded, strict_mode=True)
    except ValueError as error:
        raise InvalidEvent(f"data_base64 is not Base64 (RFC 4648, 4): {error}") from None


def _decode_slowly(text: bytes) -> Event:
    """Read an event whose members the record does not know, or say exactly what is wrong with it."""
    _is_plain(text)
    try:
        data = _decode_data_only(text).data
        # A member costs memory many times its text, so their number is bounded before they are read; not in an event
        # of 64 KiB, which everybody must forward.
        around_data = text.count(b'":') - (bytes(data).count(b'":') if isinstance(data, msgspec.Raw) else 0)
        if around_data > _MEMBER_LIMIT and len(text) > _FORWARDED_SIZE:
            raise InvalidEvent(f"the event has about {around_data} members: at most {_MEMBER_LIMIT} are read")
        members = _decode_members(text)
    except _BAD_JSON as error:
        raise InvalidEvent(f"not an event in JSON format: {error}") from None
    members.pop("data", None)
    encoded = _string("data_base64", members.pop("data_base64", _NULL))
    attributes: dict[str, Any] = {}
    for name, raw in members.items():
        check_name(name)
        value = _attribute(name, bytes(raw))
        if value is not None:
            check_value(name, value)
            attributes[name] = value
    check_required(attributes)
    event = _with_data(attributes, data, encoded)
    _Tables.learn(attributes)
    return event


def _string(name: str, raw: msgspec.Raw) -> str | None:
    value = _attribute(name, bytes(raw))
    if value is None or isinstance(value, str):
        return value
    raise InvalidEvent(f"{name} must be a string")


def _attribute(name: str, raw: bytes) -> bool | int | str | None:
    """The value of one member; None for null, which means that the attribute is absent."""
    if raw.startswith(b'"'):
        try:
            return _decode_str(raw)
        except _BAD_JSON as error:
            raise InvalidEvent(f"attribute {name!r} is not a JSON string: {error}") from None
    if raw == b"null":
        return None
    if raw in (b"true", b"false"):
        return raw == b"true"
    if _INTEGER.fullmatch(raw):
        return int(raw)
    kind = {b"{": "an object", b"[": "an array"}.get(raw[:1], "a number that is no 32-bit integer")
    raise InvalidEvent(f"attribute {name!r} is {kind}: a string, an integer or a boolean is allowed")


def _decode_batch_slowly(text: bytes) -> list[Event]:
    try:
        _decode_least_batch(text)
    except msgspec.ValidationError as error:
        place = _INDEX.search(str(error))
        if place is not None:
            raise _in_batch(int(place.group(1)), error) from None
        raise InvalidEvent(f"not a batch of events in JSON format: {error}") from None
    except _BAD_JSON as error:
        # A member may be all that is wrong; it is found unless so many would cost more memory than the text may.
        if text.count(b",") * _MEMBER_BYTES > len(text) * _MEMORY_FACTOR:
            raise _not_json(error, text) from None
    try:
        members = _decode_list(text)
    except _BAD_JSON as error:
        raise _not_json(error, text) from None
    events = []
    for index, member in enumerate(members):
        try:
            events.append(decode(bytes(member)))
        except InvalidEvent as error:
            raise _in_batch(index, error) from None
    return events


def _in_batch(index: int, error: Exception) -> InvalidEvent:
    return InvalidEvent(f"event {index} of the batch: {error}")


def _not_json(error: Exception, text: bytes) -> InvalidEvent:
    if text.startswith(b"\xef\xbb\xbf"):
        return InvalidEvent("not JSON: it starts with a byte order mark, which RFC 8259 (8.1) forbids")
    # Half a pair near the end is what the parser takes for a text that ends too early.
    half = _HALF_PAIR.search(text, max(0, len(text) - 32)) if "truncated" in str(error) else None
    if half is not None:
        return InvalidEvent(f"not JSON: {half.group().decode()} at byte {half.start()} is half a surrogate pair")
    return InvalidEvent(f"not JSON: {error}")


def _data_member(event: Event) -> tuple[str, Any]:
    """The name and value of the member that carries data (section 3.1.1)."""
    declared = event.datacontenttype
    form = event._form
    if form is TEXT and isinstance(event._data, str):
        return "data", event._data
    raw = event.raw
    assert raw is not None
    if form is BYTES:
        # Whatever the content type says: that keeps every byte, and tells Binary from a JSON value.
        return _base64(raw)
    if declared is None:
        return ("data", msgspec.Raw(raw)) if form is JSON else _base64(raw)
    kind = media(declared)
    if kind.is_json:
        if form is JSON and kind.utf8:
            return "data", msgspec.Raw(raw)
        try:
            value = bytes(in_utf8(raw, declared))
        except InvalidEvent:
            return _base64(raw)
        return ("data", msgspec.Raw(value.strip(_WHITE_SPACE))) if is_json_text(value) else _base64(raw)
    if form is TEXT or (form is BODY and kind.is_text and kind.utf8):
        try:
            return "data", decode_text(raw, declared)
        except InvalidEvent:
            return _base64(raw)
    return _base64(raw)


def _base64(raw: bytes) -> tuple[str, str]:
    return "data_base64", b64encode(raw).decode("ascii")
