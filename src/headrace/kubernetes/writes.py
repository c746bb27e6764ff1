"""Our own last writes, so that no handler is run on a state older than what this process itself made of the object."""

from __future__ import annotations

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
        self._made: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()

    def record(self, resource: str, key: str, uid: str, version: str) -> None:
        """Remember a write that the server has confirmed."""
        known = self._made.pop((resource, key), None)
        if known is not None and known[0] == uid and newer(known[1], version):
            version = known[1]
        self._made[(resource, key)] = (uid, version)
        if len(self._made) > _REMEMBERED:
            self._made.popitem(last=False)

    def ahead_of(self, resource: str, change: Delta) -> bool:
        """Whether a change shows the object as it was before our last write of it."""
        made = self._made.get((resource, change.key))
        if made is None or change.verb == "delete":
            return False
        uid, version = made
        return change.uid == uid and newer(version, change.version)
