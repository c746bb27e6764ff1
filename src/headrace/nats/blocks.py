"""Header blocks to events, as fast as Python can: one producer's messages have the same header names in the same order.

Such a sequence of names is a shape, learnt when the exact reader has read a message of it: one compiled pattern, whose named
groups are the attributes. Everything that the exact reader would look at twice (escapes, other characters than visible
ASCII, absent data, a media type or source not met before) does not match, or is sent to it.

Most streams carry one type of one source. Where many messages in a row say the same about these, what they say becomes part
of the shape's pattern: its attributes are copied then, and only what differs is read.
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
#: Messages in a row that say the same before it is taken for granted; twice as many after each time that it was wrong.
_PATIENCE: Final = 256
_REQUIRED: Final = frozenset(("specversion", "id", "source", "type"))
#: What the messages of one producer have in common.
_COMMON: Final[tuple[str, ...]] = ("specversion", "source", "type", "datacontenttype")
#: Visible ASCII but the quotation mark and the percent sign, which stand for something else.
_VALUE: Final = r"[!#$&-~]+"
_trusted: Final = Event._trusted


class _Shape:
    """The header names of a message, in order. ``match`` reads one exactly like it; ``same`` one that also says the same
    about what is common, where ``fixed`` has all attributes in order, ``None`` for those that differ."""

    __slots__ = ("_common", "_patience", "_row", "fixed", "lines", "match", "same")

    def __init__(self, lines: list[tuple[str, str | None]]) -> None:
        self.lines = lines
        self.match = re.compile(self._pattern({})).fullmatch
        self.same: Callable[[str], re.Match[str] | None] | None = None
        self.fixed: dict[str, Any] = {}
        self._common: tuple[Any, ...] = ()
        self._row = 0
        self._patience = _PATIENCE

    def _pattern(self, fixed: dict[str, str]) -> str:
        pattern = [r"NATS/1\.0\r\n"]
        for name, attribute in self.lines:
            if attribute is None:
                value = r"[^\r]*"
            elif attribute in fixed:
                value = re.escape(fixed[attribute])
            else:
                value = f"(?P<{attribute}>{'1[.]0' if attribute == 'specversion' else _VALUE})"
            pattern.append(rf"{re.escape(name)}: {value}\r\n")
        pattern.append(r"\r\n")
        return "".join(pattern)

    def met(self, attributes: dict[str, Any]) -> None:
        """A message that ``match`` has read, and `same` has not."""
        common = tuple(map(attributes.get, _COMMON))
        if self.same is not None:
            self.same = None
            self._patience *= 2
            self._row = 0
        self._row = self._row + 1 if common == self._common else 0
        self._common = common
        if self._row >= self._patience:
            fixed = {name: attributes[name] for name in _COMMON if name in attributes}
            self.same = re.compile(self._pattern(fixed)).fullmatch
            self.fixed = {name: fixed.get(name) for name in attributes}


_shapes: list[_Shape] = []


def decode(block: bytes, body: bytes) -> Event | None:
    """The event of a message, or ``None`` where it is no CloudEvent.

    Raises:
        InvalidEvent: it says that it is one, and is not.
    """
    if body:
        text = block.decode("latin-1")
        for shape in _shapes:
            if shape.same is not None:
                match = shape.same(text)
                if match is not None:
                    attributes = shape.fixed.copy()
                    attributes |= match.groupdict()
                    if shape is not _shapes[0]:
                        _to_front(shape)
                    return _trusted(attributes, body)
            match = shape.match(text)
            if match is not None:
                attributes = match.groupdict()
                if attributes["source"] in checked_references and (
                    "datacontenttype" not in attributes or attributes["datacontenttype"] in checked_media_types
                ):
                    shape.met(attributes)
                    if shape is not _shapes[0]:
                        _to_front(shape)
                    return _trusted(attributes, body)
                break
    return _exactly(block, body)


def _to_front(shape: _Shape) -> None:
    _shapes.remove(shape)
    _shapes.insert(0, shape)


def _exactly(block: bytes, body: bytes) -> Event | None:
    names = block.lower()
    of_headers = b"specversion" in names or b"content-type" in names
    # Else a JSON object may be an event. It has the word then, unless that is spelled in escapes.
    if not of_headers and b"specversion" not in body and b"\\u" not in body:
        return None
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
    lines = list(zip(names, attributes, strict=True))
    if any(shape.lines == lines for shape in _shapes):
        # Read exactly for what it says, not for its shape.
        return
    shape = _Shape(lines)
    if shape.match(text) is not None:
        _shapes.insert(0, shape)
        del _shapes[_LIMIT:]
