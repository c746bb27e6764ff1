"""Record headers to events, as fast as Python can: what the records of one producer say again and again is known.

A shape is the header names of a record in their order, with the values of those that say the same in most events (version,
source, type, media type). It is learnt when such records have been read by the binding a few times. A record of a known
shape is compared as a whole: its common attributes are copied then, and only what differs is read. Whatever is not like its
shape in every respect is the binding's, which accepts it or says what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import methodcaller
from typing import Any, Final

from headrace.cloudevents.kafka import BINDING, read
from headrace.cloudevents.types import REMEMBERED_LENGTH
from headrace.errors import InvalidEvent
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

_headers_of: Final = methodcaller("headers")
_value_of: Final = methodcaller("value")

_Pair = tuple[str, bytes]
Headers = Sequence[Any]
_Record = tuple[Headers | None, bytes | None]
Found = Event | InvalidEvent | None


class _Shape:
    """``pairs`` has the headers of the record met last; all but those of ``varying`` (index, name and attribute, ``None`` for
    headers that are none) are the same in each. ``fixed`` has all attributes, in order."""

    __slots__ = ("fixed", "pairs", "varying")

    def __init__(self, pairs: list[_Pair], varying: list[tuple[int, str, str | None]], fixed: dict[str, Any]) -> None:
        self.pairs = pairs
        self.varying = varying
        self.fixed = fixed

    def read(self, records: Iterator[_Record], found: list[Found]) -> _Record | None:
        """Append the events of records for as long as they are like this shape; the first that is not, or needs a second
        look, or ``None`` at the end."""
        pairs, fixed, varying = self.pairs, self.fixed, self.varying
        count = len(pairs)
        for headers, body in records:
            if not headers or not body or len(headers) != count:
                return headers, body
            attributes = fixed.copy()
            for index, name, attribute in varying:
                pair = headers[index]
                called, value = pair
                # A long value is not to stay here until the next record comes.
                if called != name or not value or len(value) > REMEMBERED_LENGTH:
                    return headers, body
                pairs[index] = pair
                if attribute is not None:
                    try:
                        text = value.decode()
                    except UnicodeDecodeError:
                        return headers, body
                    if not text.isprintable():
                        return headers, body
                    attributes[attribute] = text
            if headers != pairs:
                return headers, body
            found.append(_trusted(attributes, body))
        return None


class _Shapes:
    """Those of this process. ``last``: the one that fitted last; others are found by the type, for which ``type_at`` says
    where records with so many headers have it."""

    def __init__(self) -> None:
        self.last = _Shape([], [], {})  # that of no record
        self._of_type: dict[_Pair, list[_Shape]] = {}
        self._type_at: dict[int, int] = {}
        self._known = 0
        self._passed_by = 0
        self._met: dict[tuple[Any, ...], int] = {}

    def read(self, records: Iterator[_Record]) -> list[Found]:
        """Their events, in order; ``None`` for one that is no CloudEvent, the error for one that says that it is one, and is
        not."""
        found: list[Found] = []
        while True:
            other = self.last.read(records, found)
            if other is None:
                return found
            found.append(self._read_other(*other))

    def _read_other(self, headers: Headers | None, body: bytes | None) -> Found:
        """A record that is not like the last one."""
        headers = headers or ()
        at = self._type_at.get(len(headers))
        if at is not None:
            for shape in self._of_type.get(headers[at], ()):
                if shape is not self.last:
                    found: list[Found] = []
                    if shape.read(iter(((headers, body),)), found) is None:
                        self.last = shape
                        return found[0]
        try:
            event = read(headers, body)
        except InvalidEvent as error:
            return error
        if event is not None and body and event._raw is body:
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


def decode(messages: Iterable[Any]) -> list[Found]:
    """The events of messages of confluent-kafka, in order; ``None`` for one that is no CloudEvent, the error for one that says
    that it is one, and is not."""
    return _shapes.read(zip(map(_headers_of, messages), map(_value_of, messages), strict=True))
