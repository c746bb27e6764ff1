"""Compiles ``key=`` and ``publish_key=``: from a delivery or a value to the text that names its lane.

A key is a data field path (``"customer"``, ``"customer.id"``), ``"@name"`` for an attribute or extension, or a callable. A field
that is missing, null or no scalar makes the event unusable (`InvalidEvent`): without its key no order can be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headrace.errors import InvalidEvent
from headrace.event import Event

__all__ = ["Key", "compile_key", "field"]

#: What a user gives.
Key = str | Callable[[Event], Any]

_MISSING = object()


def compile_key(key: Key, typed: bool) -> Callable[[Event, Any], str]:
    """A function of (event, data as decoded for the handler) to the key.

    ``typed``: the handler has a data parameter that is decoded; otherwise fields are read from ``event.data``.
    """
    if callable(key):
        return lambda event, data: text(key(event), "key function")
    if key.startswith("@"):
        name = key[1:]

        def attribute(event: Event, data: Any) -> str:
            value = event._attributes.get(name, _MISSING)
            if value is _MISSING:
                raise InvalidEvent(f"the event has no attribute {name!r}, which is the handler's key")
            return value if value.__class__ is str else text(value, key)

        return attribute
    path = key.split(".")
    if typed and len(path) == 1:
        first = path[0]

        def direct(event: Event, data: Any) -> str:
            value = getattr(data, first, _MISSING)
            if value.__class__ is str:
                return value
            return text(field(event, data, path), key)

        return direct
    if typed:
        return lambda event, data: text(field(event, data, path), key)
    return lambda event, data: text(field(event, event.data, path), key)


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


def text(value: Any, key: str) -> str:
    """A scalar as the text that names a lane; `InvalidEvent` for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if value is None:
        raise InvalidEvent(f"the key {key!r} is null; a key is a text, a number or a Boolean")
    raise InvalidEvent(f"the key {key!r} is a {type(value).__name__}; a key is a text, a number or a Boolean")
