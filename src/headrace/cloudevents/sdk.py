"""Conversion from and to the official Python SDK, for code that has one foot in each.

The SDK is imported only when an event is converted to it; converting from it works on any object that has its shape.
Nothing that the SDK invents on its own (ids and times of received events) is added here.
"""

from __future__ import annotations

from datetime import datetime
from importlib import import_module
from typing import Any

from headrace.cloudevents.types import REQUIRED, canonical
from headrace.errors import ConfigurationError, InvalidEvent
from headrace.event import Event


def from_sdk(event: Any) -> Event:
    """An event of `cloudevents` 1 or 2 as ours; data is taken as it is.

    Raises:
        InvalidEvent: the object has not the shape of an SDK event, or an attribute that the specification does not
            allow.
    """
    read_attributes = getattr(event, "get_attributes", None)
    read_data = getattr(event, "get_data", None)
    if not callable(read_attributes) or not callable(read_data):
        raise InvalidEvent(f"{type(event).__name__} is no event of the official SDK: it has no get_attributes()")
    attributes = {name: value for name, value in read_attributes().items() if value is not None}
    for name in REQUIRED:
        if name not in attributes:
            raise InvalidEvent(f"required attribute {name!r} is missing")
    return Event(
        attributes.pop("type"),
        attributes.pop("source"),
        read_data(),
        **attributes,
    )


def to_sdk(event: Event) -> Any:
    """Our event as one of the official SDK: version 2 where it is installed, else version 1.

    Data is handed over decoded, as the SDK's own readers do; `time` becomes a datetime and loses digits past the
    microsecond.

    Raises:
        ConfigurationError: the SDK is not installed.
        InvalidEvent: `time` or the data is not what it says it is.
    """
    attributes: dict[str, Any] = {}
    for name, value in event._attributes.items():
        attributes[name] = value if isinstance(value, (str, bool, int, datetime)) else canonical(value)
    if event.time is not None:
        attributes["time"] = event.time
    return _event_class()(attributes, event.data)


def _event_class() -> Any:
    for module in ("cloudevents.core.v1.event", "cloudevents.http"):
        try:
            return import_module(module).CloudEvent
        except ImportError:
            continue
    raise ConfigurationError("to_sdk() needs the official SDK, which is not installed: pip install cloudevents")
