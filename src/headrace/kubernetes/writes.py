"""Our own last writes, so that no handler is run on a state older than what this process itself made of the object."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

from headrace.kubernetes.objects import newer
from headrace.kubernetes.store import Delta

__all__ = ["Writes"]

#: Writes that are remembered; a watch brings them back within moments.
_REMEMBERED: Final = 10_000


class Writes:
    """The uid and version that the server answered, by resource and key."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[str, str], tuple[str, str, float]] = OrderedDict()

    def record(self, resource: str, key: str, uid: str, version: str) -> None:
        """Remember a write that the server has confirmed."""
        known = self._made.pop((resource, key), None)
        if known is not None and known[0] == uid and newer(known[1], version):
            version = known[1]
        self._made[(resource, key)] = (uid, version, time.monotonic())
        if len(self._made) > _REMEMBERED:
            self._made.popitem(last=False)

    def truth(self, resource: str, key: str, version: str, since: float) -> None:
        """The latest state of an object is of this version, by a list that was asked for at ``since`` (``time.monotonic()``).
        Where that is older than a write that had been confirmed before, the server was restored from a backup: the write is
        undone, and the versions that come may all be lower."""
        made = self._made.get((resource, key))
        if made is not None and made[2] < since and newer(made[1], version):
            del self._made[(resource, key)]

    def ahead_of(self, resource: str, change: Delta) -> bool:
        """Whether a change shows the object as it was before our last write of it."""
        made = self._made.get((resource, change.key))
        if made is None or change.verb == "delete":
            return False
        uid, version, _ = made
        return change.uid == uid and newer(version, change.version)
