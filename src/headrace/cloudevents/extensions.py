"""The documented extensions that the runtime reads or writes, typed.

All others (severity, deprecation, data references and whatever a producer invents) are plain attributes, `event["name"]`;
nothing needs to be registered. Each reader accepts both the type that JSON carries and the text that headers carry,
gives None where the attribute is absent, and raises `InvalidEvent` where its text is not what the extension says.

Source: cloudevents/spec, cloudevents/extensions/: distributed-tracing, partitioning, sequence, expirytime, sampledrate,
dataref, correlation.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from headrace.cloudevents.types import INTEGER_MAX, Attribute, canonical, check_uri_reference, parse_time, shown
from headrace.errors import InvalidEvent

if TYPE_CHECKING:
    from headrace.event import Event

HOP_COUNT: Final = "hopcount"
"""Not a documented extension, but ours: how many derived events lie between this one and the first."""

# W3C Trace Context, 3.2.2: version ff and identifiers of zeros are invalid; later versions may append fields.
_TRACE_PARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
_NUMBER = re.compile(r"[+-]?[0-9]{1,10}")


class TraceParent(NamedTuple):
    """A `traceparent`, taken apart."""

    version: str
    trace_id: str
    span_id: str
    flags: str

    @property
    def sampled(self) -> bool:
        """Whether the caller may have recorded the trace."""
        return bool(int(self.flags, 16) & 1)


def trace_parent(event: Event) -> TraceParent | None:
    """The trace in which the event was created; None also where the text is no trace parent, which W3C says to
    ignore."""
    text = event.get("traceparent")
    match = _TRACE_PARENT.fullmatch(text) if isinstance(text, str) else None
    if match is None or (match.group(1) == "00" and match.group(5) is not None):
        return None
    return TraceParent(*match.group(1, 2, 3, 4))


def with_trace(event: Event, traceparent: str, tracestate: str | None = None) -> Event:
    """The event with the trace it was created in; unchanged where it has one, since forwarding never overwrites it."""
    if "traceparent" in event:
        return event
    return event.replace(traceparent=traceparent, tracestate=tracestate or None)


def partition_key(event: Event) -> str | None:
    """The key by which events belong together; None where it is absent, or empty, which no key is."""
    value = event.get("partitionkey")
    return None if value is None else canonical(value) or None


def expiry(event: Event) -> datetime | None:
    """When the event stops being of use.

    Raises:
        InvalidEvent: not RFC 3339.
    """
    value = event.get("expirytime")
    if value is None or isinstance(value, datetime):
        return value
    return parse_time(canonical(value), name="expirytime")


def expired(event: Event, now: datetime) -> bool:
    """Whether the event is of no use any more at a time, which must be aware.

    Raises:
        InvalidEvent: the expiry time is not RFC 3339.
    """
    until = expiry(event)
    return until is not None and until <= now


def sequence(event: Event) -> int | str | None:
    """The event's place among those of its source: an Integer where `sequencetype` says so, else text that sorts.

    Raises:
        InvalidEvent: declared as an Integer, and none.
    """
    value = event.get("sequence")
    if value is None:
        return None
    return _integer("sequence", value) if event.get("sequencetype") == "Integer" else canonical(value)


def sampled_rate(event: Event) -> int:
    """How many events of its kind this one stands for, itself included; 1 where nothing was sampled.

    Raises:
        InvalidEvent: not an Integer greater than zero.
    """
    value = event.get("sampledrate")
    if value is None:
        return 1
    rate = _integer("sampledrate", value)
    if rate < 1:
        raise InvalidEvent(f"attribute 'sampledrate' is {rate}: it must be greater than zero")
    return rate


def data_reference(event: Event) -> str | None:
    """Where the data is, if it is not, or not only, in the event.

    Raises:
        InvalidEvent: not a URI-reference.
    """
    value = event.get("dataref")
    if value is not None:
        check_uri_reference("dataref", canonical(value))
    return None if value is None else canonical(value)


def derived_from(parent: Event) -> dict[str, Attribute]:
    """The attributes that tie an event to the one it follows from.

    `correlationid` is the parent's, else its id; `causationid` is the parent's id; `hopcount` is one more than the
    parent's, so that a loop can be stopped.

    Raises:
        InvalidEvent: the parent's hop count is not an Integer.
    """
    return {
        "correlationid": canonical(parent.get("correlationid") or parent.id),
        "causationid": parent.id,
        HOP_COUNT: hop_count(parent) + 1,
    }


def hop_count(event: Event) -> int:
    """How many derived events lie between this one and the first; 0 where none is given.

    Raises:
        InvalidEvent: not an Integer of zero or more.
    """
    value = event.get(HOP_COUNT)
    if value is None:
        return 0
    count = _integer(HOP_COUNT, value)
    if not 0 <= count < INTEGER_MAX:
        raise InvalidEvent(f"attribute {HOP_COUNT!r} is {count}, which is no count of hops")
    return count


def _integer(name: str, value: Attribute) -> int:
    text = canonical(value)
    if not _NUMBER.fullmatch(text):
        raise InvalidEvent(f"attribute {name!r} is {shown(text)}, which is not an Integer")
    return int(text)
