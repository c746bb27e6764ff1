"""Attribute names, the CloudEvents type system and its canonical strings.

Every other module of this package takes its judgement from here: what a name may be, what text a String may hold, how
each type is written, and how a Timestamp is read. All checks raise `InvalidEvent` naming the attribute; none of them
changes a value. Source: CloudEvents 1.0.2, sections "Attribute Naming Convention" and "Type System".
"""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final, TypeAlias

from headrace.errors import InvalidEvent

Attribute: TypeAlias = bool | int | str | bytes | datetime
"""What an attribute may be in Python: Boolean, Integer, String (also URI and URI-reference), Binary, Timestamp."""

REQUIRED: Final = ("specversion", "id", "source", "type")
CORE: Final = frozenset((*REQUIRED, "subject", "time", "datacontenttype", "dataschema"))
RESERVED: Final = frozenset(("data",))

INTEGER_MIN: Final = -(2**31)
INTEGER_MAX: Final = 2**31 - 1

_NAME = re.compile(r"[a-z0-9]+")

# Controls, lone surrogates and the 66 noncharacters: what the String type excludes.
_FORBIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000))
    + "]"
)

# RFC 3986 reduced to what a receiver can judge without guessing: no white space, none of the excluded ASCII, and every
# percent sign starts an escape. Characters outside ASCII pass, as in RFC 3987.
_NOT_IN_URI = re.compile(r"[\x00-\x20\"<>\\^`{|}\x7f]|%(?![0-9A-Fa-f]{2})")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)

# RFC 2045, 5.1, without judging parameters.
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*(?:;[ -~]*)?")

# Sources and content types repeat from event to event, so what was checked once is remembered. A full table is
# emptied, not evicted from: when it fills, values do not repeat.
checked_references: Final[set[str]] = set()
checked_media_types: Final[set[str]] = {"application/json"}
_CHECKED_LIMIT: Final = 1024
REMEMBERED_LENGTH: Final = 512
"""Characters of the longest text that any table of this package keeps: what repeats is shorter, what is hostile is not."""


def check_name(name: str) -> None:
    """Refuse a name that no context attribute may have: anything but a-z and 0-9, the empty name, and `data`."""
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise InvalidEvent(
            f"attribute name {shown(name)} is not allowed: use lower-case ASCII letters and digits, and never 'data'"
        )


def check_text(name: str, value: str) -> None:
    """Refuse text that the String type excludes (spec, "Type System": U+0000-001F, U+007F-009F, noncharacters,
    surrogates)."""
    # Everything printable is allowed, and asking for that is several times faster than the exact search.
    if not value.isprintable() and (found := _FORBIDDEN.search(value)) is not None:
        raise InvalidEvent(
            f"attribute {name!r} holds U+{ord(found.group()):04X} at character {found.start()}: control characters, "
            "lone surrogates and noncharacters are not allowed"
        )


def check_uri_reference(name: str, value: str) -> None:
    """Refuse what is no URI-reference (RFC 3986, 4.1)."""
    if value in checked_references:
        return
    if not value or _NOT_IN_URI.search(value) is not None:
        raise InvalidEvent(f"attribute {name!r} is {shown(value)}, which is not a URI-reference (RFC 3986)")
    _remember(value, checked_references)


def check_media_type(name: str, value: str) -> None:
    """Refuse what is no media type (RFC 2046)."""
    if value in checked_media_types:
        return
    if not _MEDIA_TYPE.fullmatch(value):
        raise InvalidEvent(f"attribute {name!r} is {shown(value)}, which is not a media type (RFC 2046)")
    # A quick reader takes a remembered type for one of binary mode, which that of an event format never is.
    if not value.lower().startswith("application/cloudevents"):
        _remember(value, checked_media_types)


def _remember(value: str, checked: set[str]) -> None:
    if len(value) > REMEMBERED_LENGTH:
        return
    if len(checked) >= _CHECKED_LIMIT:
        checked.clear()
    checked.add(value)


def check_uri(name: str, value: str) -> None:
    """Refuse what is no absolute URI (RFC 3986, 4.3)."""
    scheme = _SCHEME.match(value)
    if scheme is None or scheme.end() == len(value) or _NOT_IN_URI.search(value) is not None:
        raise InvalidEvent(f"attribute {name!r} is {shown(value)}, which is not an absolute URI (RFC 3986)")


def check_value(name: str, value: object) -> None:
    """Refuse a value that no attribute may have; `name` has been checked already."""
    if type(value) is str:
        check_text(name, value)
        if name in CORE:
            check_core(name, value)
    elif name in CORE:
        raise InvalidEvent(f"attribute {name!r} must be a string, not {type(value).__name__}")
    elif isinstance(value, bool):
        pass
    elif isinstance(value, int):
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise InvalidEvent(f"attribute {name!r} is outside the Integer range of -2147483648 to 2147483647")
    elif isinstance(value, str):
        check_text(name, value)
    elif isinstance(value, datetime):
        format_time(value)
    elif not isinstance(value, bytes):
        raise InvalidEvent(
            f"attribute {name!r} is of type {type(value).__name__}: an attribute is a bool, int, str, bytes or datetime"
        )


def check_core(name: str, value: str) -> None:
    """Refuse text that one of the eight attributes of the specification may not hold."""
    if not value:
        raise InvalidEvent(f"attribute {name!r} is empty: leave it out or give it a value")
    if name == "source":
        check_uri_reference(name, value)
    elif name == "dataschema":
        check_uri(name, value)
    elif name == "datacontenttype":
        check_media_type(name, value)
    elif name == "specversion" and value != "1.0":
        raise InvalidEvent(f"specversion {shown(value)} is not supported: only '1.0' is")


def check_attributes(attributes: dict[str, Attribute]) -> None:
    """Refuse a set of attributes that is no event: a bad name or value, or a required attribute missing."""
    for name, value in attributes.items():
        check_name(name)
        check_value(name, value)
    check_required(attributes)


def check_required(attributes: dict[str, Attribute]) -> None:
    """Refuse attributes among which a required one is missing."""
    for name in REQUIRED:
        if name not in attributes:
            raise InvalidEvent(f"required attribute {name!r} is missing")


def canonical(value: Attribute) -> str:
    """The canonical string of a value (spec, "Type System"); two values are equal when their strings are."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    return format_time(value)


def format_time(value: datetime) -> str:
    """A datetime as RFC 3339 text, UTC written as `Z`.

    Raises:
        InvalidEvent: the datetime has no time zone, or an offset that RFC 3339 cannot write.
    """
    offset = value.utcoffset()
    if offset is None:
        raise InvalidEvent("a time without a time zone is ambiguous: pass a datetime with tzinfo, such as timezone.utc")
    if offset.total_seconds() % 60:
        raise InvalidEvent(f"a time zone offset of {offset} cannot be written in RFC 3339: use whole minutes")
    text = value.isoformat()
    return text[:-6] + "Z" if not offset else text


def parse_time(text: str, *, name: str = "time") -> datetime:
    """RFC 3339 text as an aware datetime, strictly.

    Lower-case `t` and `z`, `-00:00` and second 60 are accepted; second 60 is the first second of the next minute, and
    digits past the microsecond are cut (the attribute's text keeps them).

    Raises:
        InvalidEvent: not RFC 3339, or a date outside years 1 to 9999.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise InvalidEvent(f"attribute {name!r} is {shown(text)}, which is not an RFC 3339 timestamp")
    year, month, day, hour, minute, second, fraction, sign, zone_hours, zone_minutes = match.groups()
    zone: tzinfo = UTC
    if sign is not None and (zone_hours != "00" or zone_minutes != "00"):
        if zone_hours > "23" or zone_minutes > "59":
            raise InvalidEvent(f"attribute {name!r} is {shown(text)}, whose time zone offset does not exist")
        offset = timedelta(hours=int(zone_hours), minutes=int(zone_minutes))
        zone = timezone(-offset if sign == "-" else offset)
    microsecond = int(fraction[:6].ljust(6, "0")) if fraction else 0
    leap = second == "60"
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour), int(minute), 59 if leap else int(second), microsecond, zone
        )
        return moment + timedelta(seconds=1) if leap else moment
    except (ValueError, OverflowError) as error:
        raise InvalidEvent(f"attribute {name!r} is {shown(text)}, which is no date and time: {error}") from None


def shown(text: str) -> str:
    """Text quoted for a message, cut so that hostile input cannot make a message of any length."""
    return repr(text) if len(text) <= 64 else f"{text[:61]!r}..."
