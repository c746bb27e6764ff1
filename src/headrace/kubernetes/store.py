"""What one handler has been shown, and what follows from a new fact: the diff that makes adds, updates and deletes.

One store a handler. It begins with the handler's checkpoint, so that the first complete list after a restart yields
exactly what was missed, deletions included. The laws (property-tested with the reflector against a model API server):

- Within one uid, a state that is not newer than the one shown is dropped; after a ``truth`` fact even a lower version
  stands.
- The same name with another uid is a delete and an add.
- What a complete list lacks is gone: a synthetic delete, its final state unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal

from headrace.kubernetes.objects import Object, newer
from headrace.kubernetes.reflector import Fact, Gone, Present, Replaced

__all__ = ["Delta", "Seen", "Store"]

Verb = Literal["add", "update", "delete"]


class Seen:
    """The state of an object that was shown last. ``raw`` is kept where previous states or resyncs are asked for;
    ``digest`` is of the fields that count as a change (``changes=``)."""

    __slots__ = ("digest", "raw", "uid", "version")

    def __init__(self, uid: str, version: str, raw: bytes | None = None, digest: str = "") -> None:
        self.uid = uid
        self.version = version
        self.raw = raw
        self.digest = digest


class Delta:
    """One thing that happened to one object, for one handler.

    ``raw`` is the object's JSON, ``None`` for a synthetic delete (``unknown``: its final state is not known).
    ``version`` is of this state; for a synthetic delete the last one known. ``untold``: a delete that waits behind
    the add of its object. ``listed``: of the first list after a start, so an earlier process may have handed it over.
    ``minor``: none of the fields that count has changed.
    """

    __slots__ = (
        "deselected",
        "digest",
        "initial",
        "key",
        "listed",
        "minor",
        "observed",
        "previous",
        "raw",
        "resync",
        "uid",
        "unknown",
        "untold",
        "verb",
        "version",
    )

    def __init__(self, verb: Verb, key: str, uid: str, version: str, raw: bytes | None, digest: str = "") -> None:
        self.verb: Verb = verb
        self.key = key
        self.uid = uid
        self.version = version
        self.raw = raw
        self.digest = digest
        self.previous: bytes | None = None
        self.initial = False
        self.listed = False
        self.resync = False
        self.deselected = False
        self.unknown = False
        self.minor = False
        self.untold = False
        self.observed = 0.0

    def __repr__(self) -> str:
        return f"Delta({self.verb} {self.key} {self.uid}:{self.version})"


_NO_DIGEST: Final = ""


class Store:
    """The states shown to one handler, by key.

    Args:
        keep: what to keep of an object's JSON (``previous=``, ``resync=``), or ``None`` to keep nothing.
        digest: a text that differs when a field that counts differs, or ``None``: every new version counts.
        baseline: the version of the first complete list ever, or ``None`` before it: what is found up to it was there
            at the first start.
    """

    def __init__(
        self,
        *,
        keep: Callable[[bytes], bytes] | None = None,
        digest: Callable[[bytes], str] | None = None,
        baseline: str | None = None,
    ) -> None:
        self.seen: dict[str, Seen] = {}
        self.baseline = baseline
        self._begun: set[str] = set()
        self._keep = keep
        self._digest = digest

    def know(
        self,
        finished: Mapping[str, tuple[str, str, str]],
        begun: Mapping[str, tuple[str, str, str]],
        namespace: str,
    ) -> None:
        """Begin with a checkpoint: (uid, version, digest) by key; of one namespace, or of all where it is empty. What was
        only begun is added again where it is still there, and its end is told where it is not."""
        prefix = f"{namespace}/" if namespace else ""
        for known in (finished, begun):
            for key, (uid, version, digest) in known.items():
                if key.startswith(prefix):
                    self.seen[key] = Seen(uid, version, None, digest)
        self._begun = {key for key in begun if key.startswith(prefix)}

    def apply(self, fact: Fact) -> list[Delta]:
        """The changes that follow from a fact, in order; none where it is nothing new."""
        if isinstance(fact, Present):
            return self._present(fact.object, fact.truth)
        if isinstance(fact, Gone):
            return self._gone(fact.object)
        return self._replaced(fact)

    def resync(self) -> Iterator[Delta]:
        """The state of every object again, as updates marked ``resync``; needs ``keep``."""
        for key, seen in self.seen.items():
            if seen.raw is not None:
                change = Delta("update", key, seen.uid, seen.version, seen.raw, seen.digest)
                change.previous = seen.raw
                change.resync = True
                yield change

    def _present(self, found: Object, truth: bool) -> list[Delta]:
        key, uid, version, raw = found
        seen = self.seen.get(key)
        if seen is None:
            return [self._add(found)]
        if self._begun and key in self._begun:
            self._begun.discard(key)
            if seen.uid == uid:
                return [self._add(found)]
        if seen.uid != uid:
            return [self._vanished(key, seen), self._add(found)]
        if seen.version == version:
            if self._keep is not None and seen.raw is None:
                seen.raw = self._keep(raw)  # known by its checkpoint only, until now
            return []
        if not truth and not newer(version, seen.version):
            return []
        digest = _NO_DIGEST if self._digest is None else self._digest(raw)
        change = Delta("update", key, uid, version, raw, digest)
        change.previous = seen.raw
        change.minor = digest != _NO_DIGEST and digest == seen.digest
        seen.version = version
        seen.digest = digest
        if self._keep is not None:
            seen.raw = self._keep(raw)
        return [change]

    def _add(self, found: Object) -> Delta:
        key, uid, version, raw = found
        digest = _NO_DIGEST if self._digest is None else self._digest(raw)
        change = Delta("add", key, uid, version, raw, digest)
        change.initial = self.baseline is None or not newer(version, self.baseline)
        self.seen[key] = Seen(uid, version, None if self._keep is None else self._keep(raw), digest)
        return change

    def _gone(self, found: Object) -> list[Delta]:
        seen = self.seen.get(found.key)
        if seen is None or seen.uid != found.uid:
            # Never shown, or the end of an earlier one of that name, which was said already.
            return []
        if found.version != seen.version and not newer(found.version, seen.version):
            return []
        del self.seen[found.key]
        self._begun.discard(found.key)
        change = Delta("delete", found.key, found.uid, found.version, found.raw)
        change.previous = seen.raw
        return [change]

    def _vanished(self, key: str, seen: Seen) -> Delta:
        change = Delta("delete", key, seen.uid, seen.version, seen.raw)
        change.previous = seen.raw
        change.unknown = True
        return change

    def _replaced(self, fact: Replaced) -> list[Delta]:
        present = fact.present
        self._begun.clear()  # whatever is still there was shown by now
        missing = [key for key in self.seen if key not in present]
        changes = [self._vanished(key, self.seen.pop(key)) for key in missing]
        if self.baseline is None:
            self.baseline = fact.version
        return changes
