"""Compiles ``key=`` and ``publish_key=``: from a delivery or a value to the text that names its lane.

A key is a data field path (``"customer"``, ``"customer.id"``), ``"@name"`` for an attribute or extension, or a callable. A field
that is missing, null or no scalar makes the event unusable (`InvalidEvent`): without its key no order can be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headrace.errors import InvalidEvent, encodable
from headrace.event import Event

__all__ = ["Key", "compile_identity", "compile_key", "field", "text"]

#: What a user gives.
Key = str | Callable[[Event], Any]

_MISSING = object()


def compile_key(key: Key, typed: bool) -> Callable[[Event, Any], str]:
    """A function of (event, data as decoded for the handler) to the key.

    ``typed``: the handler has a data parameter that is decoded; otherwise fields are read from ``event.data``.
    """
    if callable(key):
        return lambda event, data: text(key(event), "what the handler's key function returned")
    what = f"the key {key!r}"
    if key.startswith("@"):
        name = key[1:]

        def attribute(event: Event, data: Any) -> str:
            value = event._attributes.get(name, _MISSING)
            if value is _MISSING:
                raise InvalidEvent(f"the event has no attribute {name!r}, which is the handler's key")
            return value if value.__class__ is str else text(value, what)

        return attribute
    path = key.split(".")
    if typed and len(path) == 1:
        first = path[0]

        def direct(event: Event, data: Any) -> str:
            value = getattr(data, first, _MISSING)
            if value.__class__ is str:
                return value
            return text(field(event, data, path), what)

        return direct
    if typed:
        return lambda event, data: text(field(event, data, path), what)
    return lambda event, data: text(field(event, event.data, path), what)


def compile_identity(function: Callable[[Event], Any]) -> Callable[[Event], str]:
    """The user's ``idempotent=`` function as the ledger needs it: without an identity an event would be another's
    duplicate, so one that gets none is unusable (`InvalidEvent`)."""

    def identity(event: Event) -> str:
        value = function(event)
        if value is None or value == "":
            raise InvalidEvent(f"the handler's idempotent function gave no identity: it returned {value!r}")
        try:
            return text(value, "what it returned")
        except InvalidEvent as error:
            raise InvalidEvent(f"the handler's idempotent function gave no identity: {error}") from error

    return identity


def field(event: Event, data: Any, path: list[str]) -> Any:
    """The value at a path of attributes or mapping keys; falls back to ``event.data`` where the handler's type lacks it.

    Raises `InvalidEvent` where there is none.
    """
    for root in (data, None):
        value = event.data if root is None else root
        for name in path:
            value = value.get(name, _MISSING) if isinstance(value, Mapping) else getattr(value, name, _MISSING)
            if value is _MISSING:
                break
        if value is not _MISSING:
            return value
    raise InvalidEvent(f"the data has no field {'.'.join(path)!r}, which is the handler's key")


def text(value: Any, what: str) -> str:
    """A scalar as the text that names a lane or an event; `InvalidEvent` for anything else, which says ``what`` it was."""
    if isinstance(value, str):
        if not value.isascii() and encodable(value) != value:
            raise InvalidEvent(f"{what} is {value!r}, which holds lone surrogates and so is no text")
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if value is None:
        raise InvalidEvent(f"{what} is null; it has to be a text, a number or a Boolean")
    raise InvalidEvent(f"{what} is a {type(value).__name__}; it has to be a text, a number or a Boolean")
