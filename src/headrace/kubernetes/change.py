"""An object beside its previous state: what a handler of ``Watch(…, previous=True)`` gets as data."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

__all__ = ["Change"]

T = TypeVar("T")


class Change(msgspec.Struct, Generic[T], frozen=True):
    """The data of an event with ``previous=True``; annotate a handler's parameter with it (``Change[Pod]``, or alone
    for dicts).

    ``previous`` is the state that this handler was shown before, without managedFields and kubectl's last-applied
    annotation; ``None`` for an add, and for the first change of an object after a restart.
    """

    object: T
    previous: T | None = None
