"""A model of an API server: revisions, history, compaction, lagging replicas, paging, and what goes wrong with each.

It answers a `Request` by calling the reflector as the I/O would. It is a model of the contract, not of a server: whatever
the contract allows may happen (a list at version 0 may be any old state, a stream may break anywhere).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from headrace.kubernetes.objects import Bookmark, Object, Page
from headrace.kubernetes.reflector import Reflector, Request
from headrace.kubernetes.status import Cause, Details, Status

GONE = Status(410, "Expired", "too old resource version")
TOO_LARGE = (
    Status(504, "Timeout", "Too large resource version", Details(causes=[Cause("ResourceVersionTooLarge", "")])),
    Status(504, "Timeout", "x", Details(causes=[Cause("", "Too large resource version")])),
    Status(504, "Timeout", "Timeout: Too large resource version: 9, current: 5"),
)
FAULTS = (
    "none",
    "none",
    "none",
    "none",
    "500",
    "429",
    "broken",
    "403",
    "404",
    "garbled",
    "error-500",
    "error-429",
    "stall",
)


@dataclass
class Server:
    """The objects, their history, and how the next request is answered."""

    chance: random.Random
    streams: bool = True
    page: int = 3
    revision: int = 10
    objects: dict[str, Object] = field(default_factory=dict)
    history: list[tuple[int, str, Object]] = field(default_factory=list)
    compacted: int = 0
    uids: int = 0
    snapshots: dict[int, dict[str, Object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.snapshots[self.revision] = {}

    # What happens to objects

    def put(self, key: str) -> None:
        """Create, or change what is there."""
        known = self.objects.get(key)
        self.revision += 1
        if known is None:
            self.uids += 1
        uid = known.uid if known is not None else f"u{self.uids}"
        made = Object(key, uid, str(self.revision), b"{}")
        self.objects[key] = made
        self._record("ADDED" if known is None else "MODIFIED", made)

    def delete(self, key: str) -> None:
        known = self.objects.pop(key, None)
        if known is None:
            return
        self.revision += 1
        self._record("DELETED", known._replace(version=str(self.revision)))

    def elsewhere(self) -> None:
        """Another kind of object changed: the revision moves on, this collection does not."""
        self.revision += 1
        self.snapshots[self.revision] = dict(self.objects)

    def compact(self) -> None:
        self.compacted = self.revision
        self.history.clear()

    def restore(self) -> None:
        """A backup is put back: an old state at its old revision, the history since it gone."""
        at = self.chance.choice(sorted(self.snapshots))
        self.revision = at
        self.objects = dict(self.snapshots[at])
        self.snapshots = {revision: seen for revision, seen in self.snapshots.items() if revision <= at}
        self.history = [entry for entry in self.history if entry[0] <= at]
        self.compacted = min(self.compacted, at)

    def _record(self, kind: str, made: Object) -> None:
        self.history.append((self.revision, kind, made))
        self.snapshots[self.revision] = dict(self.objects)

    # How requests are answered

    def answer(self, reflector: Reflector, request: Request, fault: str) -> None:
        query = dict(request.query)
        if fault == "500":
            return reflector.refused(Status(500, "InternalError", "etcdserver: leader changed"))
        if fault == "429":
            return reflector.refused(Status(429, "TooManyRequests", "busy"), 1.0)
        if fault == "403":
            return reflector.refused(Status(403, "Forbidden", "not allowed"))
        if fault == "404":
            return reflector.refused(Status(404, "NotFound", "no such resource"))
        if fault == "garbled":
            return reflector.garbled("not JSON")
        if not request.watch:
            return self._list(reflector, query, fault)
        if "sendInitialEvents" in query:
            return self._stream(reflector, query, fault)
        return self._watch(reflector, query, fault)

    def _list(self, reflector: Reflector, query: dict[str, str], fault: str) -> None:
        if fault == "broken":
            return reflector.broke("the connection was reset")
        token = query.get("continue")
        if token:
            at, begin = (int(part) for part in token.split(":"))
            if at < self.compacted or at not in self.snapshots:
                return reflector.refused(GONE)
        else:
            found = self._at_least(query.get("resourceVersion", ""))
            if found is None:
                return reflector.refused(self.chance.choice(TOO_LARGE))
            at, begin = found, 0
        objects = sorted(self.snapshots[at].values())
        limit = self.page if "limit" in query else len(objects) or 1
        more = begin + limit < len(objects)
        reflector.page(Page(str(at), f"{at}:{begin + limit}" if more else "", objects[begin : begin + limit]))

    def _at_least(self, version: str) -> int | None:
        """The revision that a list is answered from; the latest one where no version is asked for."""
        if version == "":
            return max(self.snapshots)
        if int(version) > self.revision:
            return None
        allowed = [revision for revision in self.snapshots if revision >= int(version)]
        return self.chance.choice(sorted(allowed)) if allowed else max(self.snapshots)

    def _stream(self, reflector: Reflector, query: dict[str, str], fault: str) -> None:
        if not self.streams:
            return reflector.refused(Status(422, "Invalid", "sendInitialEvents is forbidden"))
        at = self._at_least(query.get("resourceVersion", ""))
        if at is None:
            return reflector.refused(self.chance.choice(TOO_LARGE))
        reflector.opened()
        for found in self.snapshots[at].values():
            if fault == "broken" and self.chance.random() < 0.3:
                return reflector.broke("the connection was reset")
            if fault == "stall" and self.chance.random() < 0.3:
                return reflector.fell_silent()
            reflector.event("ADDED", found)
        if fault == "stall":
            return reflector.fell_silent()
        reflector.bookmark(Bookmark(str(at), True))
        self._events(reflector, at, fault)

    def _watch(self, reflector: Reflector, query: dict[str, str], fault: str) -> None:
        version = int(query["resourceVersion"])
        if version < self.compacted:
            if self.chance.random() < 0.5:
                return reflector.refused(GONE)
            reflector.opened()
            return reflector.error(GONE)
        reflector.opened()
        self._events(reflector, version, fault)

    def _events(self, reflector: Reflector, version: int, fault: str) -> None:
        if version < self.compacted:
            return reflector.error(GONE)
        for revision, kind, made in list(self.history):
            if revision <= version:
                continue
            if self.chance.random() < 0.2:
                reflector.bookmark(Bookmark(str(revision - 1), False))
            if fault in ("broken", "error-500", "error-429") and self.chance.random() < 0.3:
                break
            reflector.event(kind, made)
        if fault == "error-500":
            return reflector.error(Status(500, "InternalError", "the object could not be read"))
        if fault == "error-429":
            return reflector.error(Status(429, "TooManyRequests", "busy", Details(retry_after_seconds=1)))
        if fault == "broken":
            return reflector.broke("the connection was reset")
        reflector.ended()
