"""Headrace brings events to handlers.

This module is the door of the framework: the words a user's file imports. It promises to stay cheap: a name is
imported from its own module only when it is first used (PEP 562), so that ``import headrace`` loads nothing else.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers know the name; to import it from typing would cost more than all of this module

if TYPE_CHECKING:
    from headrace.app import App as App
    from headrace.engine.delivery import Delivery as Delivery
    from headrace.errors import Drop as Drop
    from headrace.errors import Reject as Reject
    from headrace.errors import RetryAfter as RetryAfter
    from headrace.event import Event as Event
    from headrace.policy import Retry as Retry
    from headrace.policy import exponential as exponential
    from headrace.router import Router as Router

__version__ = "0.1.0"

_HOMES = {
    "App": "headrace.app",
    "Delivery": "headrace.engine.delivery",
    "Drop": "headrace.errors",
    "Event": "headrace.event",
    "Reject": "headrace.errors",
    "Retry": "headrace.policy",
    "RetryAfter": "headrace.errors",
    "Router": "headrace.router",
    "exponential": "headrace.policy",
}

__all__ = ["App", "Delivery", "Drop", "Event", "Reject", "Retry", "RetryAfter", "Router", "exponential"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
