"""Record headers to events, as fast as Python can: what the records of one producer say again and again is known.

A shape is the header names of a record in their order, with the values of those that say the same in most events (version,
source, type, media type). It is learnt when such records have been read by the binding a few times. A record of a known
shape is compared as a whole: its common attributes are copied then, and only what differs is read. Whatever is not like its
shape in every respect is the binding's, which accepts it or says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from headrace.cloudevents.kafka import BINDING, read
from headrace.cloudevents.types import REMEMBERED_LENGTH
from headrace.event import Event

__all__ = ["decode"]

#: Attributes that are taken to be the same in the records of one shape.
_COMMON: Final = frozenset(("specversion", "source", "type", "datacontenttype"))
_REQUIRED: Final = frozenset(("specversion", "id", "source", "type"))
#: Shapes of one type of event, the newest: sources come and go (replicas), and where there are more of them, some records are
#: read by the binding.
_OF_ONE_TYPE: Final = 4
#: Of the records that no shape fits, one in so many is looked at; a shape is made of the third like it.
_ONE_IN: Final = 8
_LOOKS: Final = 3
#: Kept at most, of shapes and of what may become one; all are forgotten when there are more, and come back at once.
_LIMIT: Final = 256
_trusted: Final = Event._trusted

_Pair = tuple[str, bytes]


class _Shape:
    """``pairs`` has the headers of the record met last; all but those of ``varying`` (index, name and attribute, ``None`` for
    headers that are none) are the same in each. ``fixed`` has all attributes, in order."""

    __slots__ = ("fixed", "pairs", "varying")

    def __init__(self, pairs: list[_Pair], varying: list[tuple[int, str, str | None]], fixed: dict[str, Any]) -> None:
        self.pairs = pairs
        self.varying = varying
        self.fixed = fixed

    def read(self, headers: Sequence[Any], body: bytes) -> Event | None:
        """The event of a record of this shape; ``None`` where it is not like it, or needs a second look."""
        pairs = self.pairs
        if len(headers) != len(pairs):
            return None
        attributes = self.fixed.copy()
        for index, name, attribute in self.varying:
            pair = headers[index]
            found, value = pair
            # A long value is not to stay here until the next record comes.
            if found != name or not value or len(value) > REMEMBERED_LENGTH:
                return None
            pairs[index] = pair
            if attribute is not None:
                try:
                    text = value.decode()
                except UnicodeDecodeError:
                    return None
                if not text.isprintable():
                    return None
                attributes[attribute] = text
        return _trusted(attributes, body) if headers == pairs else None


class _Shapes:
    """Those of this process. ``last``: the one that fitted last; others are found by the type, for which ``type_at`` says
    where records with so many headers have it."""

    def __init__(self) -> None:
        self.last = _Shape([], [], {})
        self._of_type: dict[_Pair, list[_Shape]] = {}
        self._type_at: dict[int, int] = {}
        self._known = 0
        self._passed_by = 0
        self._met: dict[tuple[Any, ...], int] = {}

    def read(self, headers: Sequence[Any], body: bytes) -> Event | None:
        """A record that is not like the last one."""
        at = self._type_at.get(len(headers))
        if at is not None:
            for shape in self._of_type.get(headers[at], ()):
                if shape is not self.last:
                    event = shape.read(headers, body)
                    if event is not None:
                        self.last = shape
                        return event
        event = read(headers, body)
        if event is not None and event._raw is body:
            self._passed_by += 1
            if not self._passed_by % _ONE_IN:
                self._look_at(headers, event)
        return event

    def _look_at(self, headers: Sequence[Any], event: Event) -> None:
        """What no shape fits."""
        attributes = [BINDING.names.get(name) for name, _ in headers]
        named = [attribute for attribute in attributes if attribute is not None]
        told: dict[str, Any] = {
            attribute: value.decode()
            for (_, value), attribute in zip(headers, attributes, strict=True)
            if attribute is not None
        }
        # Where the event says anything else than these headers, it was not read of them alone.
        if len(told) != len(named) or told != event._attributes or not told.keys() >= _REQUIRED or "dataschema" in told:
            return
        if any(len(value or b"") > REMEMBERED_LENGTH or len(name) > REMEMBERED_LENGTH for name, value in headers):
            return
        looks = tuple(
            pair if attribute in _COMMON else pair[0] for pair, attribute in zip(headers, attributes, strict=True)
        )
        if len(self._met) >= _LIMIT:
            self._met.clear()
        count = self._met[looks] = self._met.get(looks, 0) + 1
        if count == _LOOKS:
            del self._met[looks]
            self._learn(list(headers), attributes, told)

    def _learn(self, headers: list[_Pair], attributes: list[str | None], told: dict[str, Any]) -> None:
        if self._known >= _LIMIT:
            self._of_type.clear()
            self._type_at.clear()
            self._met.clear()
            self._known = 0
        at = attributes.index("type")
        self._type_at[len(headers)] = at
        varying = [
            (index, headers[index][0], attribute)
            for index, attribute in enumerate(attributes)
            if attribute not in _COMMON
        ]
        of_type = self._of_type.setdefault(headers[at], [])
        of_type.insert(0, _Shape(headers, varying, told))
        self._known += 1 - len(of_type[_OF_ONE_TYPE:])
        del of_type[_OF_ONE_TYPE:]


_shapes: Final = _Shapes()


def decode(headers: Sequence[Any], body: bytes | None) -> Event | None:
    """The event of a record, or ``None`` where it is no CloudEvent.

    Raises:
        InvalidEvent: it says that it is one, and is not.
    """
    if not body or not headers:
        return read(headers, body)
    event = _shapes.last.read(headers, body)
    return event if event is not None else _shapes.read(headers, body)
