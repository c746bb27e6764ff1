"""A record that is no CloudEvent, as an event: nothing of it is lost, and its id is the same each time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from headrace.event import Event

__all__ = ["plain_event"]

#: What JSON can begin with; anything else is not even tried.
_JSON_STARTS: Final = frozenset(b'{["-0123456789tfn \t\r\n')
_YEAR_10000: Final = 253402300800000
_decode = msgspec.json.Decoder(msgspec.Raw).decode


def plain_event(message: Any, *, topic: str, source: str, number: int, wants_bytes: bool) -> Event:
    """type = topic, source = topic with its incarnation, id = partition and offset, time = the record's timestamp.

    The content type is the record's own header, else JSON where the value parses as such and the handler wants it
    decoded, else none (bytes).
    """
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"{number}/{message.offset()}",
        "source": source,
        "type": topic,
    }
    kind, milliseconds = message.timestamp()
    if kind and 0 < milliseconds < _YEAR_10000:
        attributes["time"] = timestamp_text(milliseconds)
    body = message.value()
    content_type = _content_type(message.headers())
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    elif body and not wants_bytes and _is_json(body):
        attributes["datacontenttype"] = "application/json"
    return Event._trusted(attributes, body)


def timestamp_text(milliseconds: int) -> str:
    """RFC 3339, UTC, with milliseconds."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def _content_type(headers: Any) -> str | None:
    for name, value in headers or ():
        if name.lower() == "content-type" and value:
            try:
                text = str(value, "ascii").strip()
            except (UnicodeDecodeError, TypeError):
                return None
            return text if text.isprintable() and "/" in text else None
    return None


def _is_json(body: bytes) -> bool:
    if body[0] not in _JSON_STARTS:
        return False
    try:
        _decode(body)
    except msgspec.DecodeError:
        return False
    return True
