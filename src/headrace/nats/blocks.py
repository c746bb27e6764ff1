"""Header blocks to events, as fast as Python can: one producer's messages have the same header names in the same order.

Such a sequence of names is a shape, learnt when the exact reader has read a message of it: one compiled pattern, whose named
groups are the attributes. Everything that the exact reader would look at twice (escapes, other characters than visible
ASCII, absent data, a media type or source not met before) does not match, or is sent to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from headrace.cloudevents.nats import BINDING, read
from headrace.cloudevents.types import checked_media_types, checked_references
from headrace.errors import InvalidEvent
from headrace.event import Event
from headrace.nats.wire import header_pairs

__all__ = ["decode"]

#: Shapes that are kept, the one met last first.
_LIMIT: Final = 16
_REQUIRED: Final = frozenset(("specversion", "id", "source", "type"))
#: Visible ASCII but the quotation mark and the percent sign, which stand for something else.
_VALUE: Final = r"[!#$&-~]+"
_trusted: Final = Event._trusted

_shapes: list[Callable[[str], re.Match[str] | None]] = []


def decode(block: bytes, body: bytes) -> Event | None:
    """The event of a message, or ``None`` where it is no CloudEvent.

    Raises:
        InvalidEvent: it says that it is one, and is not.
    """
    if body:
        text = block.decode("latin-1")
        for position, shape in enumerate(_shapes):
            match = shape(text)
            if match is not None:
                if position:
                    _shapes.insert(0, _shapes.pop(position))
                attributes: dict[str, Any] = match.groupdict()
                if attributes["source"] in checked_references and (
                    "datacontenttype" not in attributes or attributes["datacontenttype"] in checked_media_types
                ):
                    return _trusted(attributes, body)
                break
    return _exactly(block, body)


def _exactly(block: bytes, body: bytes) -> Event | None:
    pairs: Any = header_pairs(block)
    # A content-type header on NATS is sdk-go's dialect, which only the tolerant profile reads.
    if b"ontent-" in block:
        return read(pairs, body, tolerant=True)
    try:
        event = read(pairs, body)
    except InvalidEvent:
        return read(pairs, body, tolerant=True)
    if event is not None and body:
        _learn(block.decode("latin-1"), [name for name, _ in pairs])
    return event


def _learn(text: str, names: list[str]) -> None:
    """Make a shape of a message that was read exactly, if its names make one and it would have matched."""
    table = BINDING.names
    attributes = [table.get(name) for name in names]
    known = [name for name in attributes if name is not None]
    if (
        any(name not in table for name in names)
        or len(set(known)) != len(known)
        or not set(known) >= _REQUIRED
        or "dataschema" in known
        or not all(name.isidentifier() for name in known)
    ):
        return
    pattern = [r"NATS/1\.0\r\n"]
    for name, attribute in zip(names, attributes, strict=True):
        value = (
            r"[^\r]*" if attribute is None else f"(?P<{attribute}>{'1[.]0' if attribute == 'specversion' else _VALUE})"
        )
        pattern.append(rf"{re.escape(name)}: {value}\r\n")
    pattern.append(r"\r\n")
    shape = re.compile("".join(pattern)).fullmatch
    if shape(text) is not None:
        _shapes.insert(0, shape)
        del _shapes[_LIMIT:]
