"""The checkpoint of one watch: per object the uid and version last finished, so that a restart says what was missed.

Kubernetes keeps no record of who has seen what. This index is that record, in the app's store: an entry is written
when its event is finished, leaves when its delete is finished, and is what the first complete list after a restart is
compared with. That an object exists is written before a handler hears of it the first time: should the process die then, its
delete is told nonetheless. Failed attempts at a state that is not finished are kept beside it. Saves are batched; what was finished and
not yet saved when the process dies is handled again, never skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

import msgspec

from headrace.engine.checkpoints import Checkpoints
from headrace.engine.ledger import Attempts
from headrace.errors import RefusedError
from headrace.kubernetes.objects import newer
from headrace.kubernetes.store import Delta

__all__ = ["Finished", "Identity", "Index"]

_T = TypeVar("_T")

_log = logging.getLogger("headrace.kubernetes")


class Identity(NamedTuple):
    """Which cluster: the uid of its kube-system namespace, empty where we may not read it, and the server's address."""

    uid: str
    server: str

    def same(self, other: Identity) -> bool:
        """Whether both are one cluster: by uid where both are known, else by address."""
        if self.uid and other.uid:
            return self.uid == other.uid
        return self.server == other.server


class Finished(NamedTuple):
    """The last state of an object that was handled to its end."""

    uid: str
    version: str
    digest: str


class Failed(msgspec.Struct, frozen=True):
    """Failed attempts at one state of an object."""

    uid: str
    version: str
    gone: bool
    attempts: Attempts


#: After an entry's words: it was handed over, and not finished.
_BEGUN: Final = "begun"

_failed = msgspec.json.Decoder(Failed)


def _entry(value: bytes) -> tuple[Finished, bool]:
    """An entry's state, and whether it was only begun."""
    uid, version, digest, *mark = value.decode().split(" ")
    if mark not in ([], [_BEGUN]) or not uid:
        raise ValueError("it is no uid, version and digest")
    return Finished(uid, version, digest), bool(mark)


class _Header(msgspec.Struct):
    """``baseline``: version of the first complete list ever; ``version``: the latest that was finished."""

    uid: str
    server: str
    baseline: str | None = None
    version: str = ""


class Index:
    """What one handler has finished of one resource.

    Args:
        checkpoints: where it is saved; ``None`` keeps it in memory only.
        scope: ``<app>__<handler>``; resource: its name (``pods``, ``deployments.apps``).

    Attributes:
        finished: by object key.
        begun: by object key, what a handler was handed the first time and has not finished: it exists, no more is known.
    """

    def __init__(self, checkpoints: Checkpoints | None, scope: str, resource: str) -> None:
        self.finished: dict[str, Finished] = {}
        self.begun: dict[str, Finished] = {}
        self._failed: dict[str, Failed] = {}
        self._checkpoints = checkpoints
        self._scope = scope
        self._resource = resource
        self._header = _Header("", "")
        self._changes: dict[str, bytes | None] = {}
        self._header_changed = False

    @property
    def baseline(self) -> str | None:
        """The version of the first complete list ever; ``None`` before it."""
        return self._header.baseline

    @property
    def version(self) -> str:
        """No list may be older than this: it could lack what was finished, or still show what is gone."""
        return self._header.version

    @property
    def changed(self) -> bool:
        """Something is not saved yet."""
        return bool(self._changes) or self._header_changed

    async def load(self, identity: Identity) -> None:
        """Read what was saved; of another cluster it is discarded.

        Raises:
            StoreUnavailable: the store does not answer.
            RefusedError: an entry cannot be read. To go on without it would skip or forget what it says.
        """
        self.finished = {}
        self.begun = {}
        self._failed = {}
        self._changes = {}
        self._header = _Header(identity.uid, identity.server)
        self._header_changed = True
        if self._checkpoints is None:
            return
        saved = await self._checkpoints.load(self._scope)
        header = saved.get(self._resource)
        prefix = f"{self._resource} "
        entries = {name: value for name, value in saved.items() if name.startswith(prefix)}
        failures = {name: value for name, value in saved.items() if name.startswith(self._failure(""))}
        if header is None:
            return
        found = self._read(self._resource, header, msgspec.json.Decoder(_Header).decode)
        if not identity.same(Identity(found.uid, found.server)):
            _log.warning(
                "the checkpoint of %s for %s belongs to another cluster (%s); it is discarded and everything is new",
                self._scope,
                self._resource,
                found.server,
            )
            self._changes = dict.fromkeys([*entries, *failures])
            return
        self._header = msgspec.structs.replace(found, uid=identity.uid or found.uid, server=identity.server)
        self._header_changed = self._header != found
        for name, value in entries.items():
            one, begun = self._read(name, value, _entry)
            known = self.begun if begun else self.finished
            known[name[len(prefix) :]] = one
        self._failed = {
            name[len(self._failure("")) :]: self._read(name, value, _failed.decode) for name, value in failures.items()
        }

    def _read(self, name: str, value: bytes, decode: Callable[[bytes], _T]) -> _T:
        try:
            return decode(value)
        except (msgspec.MsgspecError, ValueError) as error:
            raise RefusedError(
                f"the checkpoint {self._scope} cannot be read at {name!r}: {error}. Nothing is handled, since to go on without "
                "it would skip deletions; restore the store from a backup, or remove this scope's checkpoint from it: then all "
                "objects are new, and what was deleted meanwhile is not told"
            ) from error

    def _failure(self, key: str) -> str:
        """Under which name the failed attempts of an object are saved."""
        return f"{self._resource}! {key}"

    def failed(self, change: Delta, attempts: Attempts) -> None:
        """An attempt at this change failed, and there will be another; so many were made."""
        found = self._failed[change.key] = Failed(change.uid, change.version, change.verb == "delete", attempts)
        self._changes[self._failure(change.key)] = msgspec.json.encode(found)

    def attempts(self, change: Delta) -> Attempts | None:
        """The failed attempts at this very change, also those of an earlier process."""
        found = self._failed.get(change.key)
        if found is None or (found.uid, found.version, found.gone) != (
            change.uid,
            change.version,
            change.verb == "delete",
        ):
            return None
        return found.attempts

    def begin(self, change: Delta) -> bool:
        """The change is about to be handed over; whether it is of an object that no record knows, which is to be saved
        first."""
        key = change.key
        known = self.finished.get(key) or self.begun.get(key)
        if change.verb != "add" or (known is not None and known.uid == change.uid):
            return False
        self.begun[key] = Finished(change.uid, change.version, change.digest)
        self._changes[f"{self._resource} {key}"] = f"{change.uid} {change.version} {change.digest} {_BEGUN}".encode()
        return True

    def finish(self, change: Delta) -> None:
        """The change was handled to its end, whatever its outcome."""
        key = change.key
        begun = self.begun.get(key)
        ours = begun is not None and begun.uid == change.uid
        if ours:
            del self.begun[key]
        if self._failed.pop(key, None) is not None:
            self._changes[self._failure(key)] = None
        known = self.finished.get(key)
        if change.verb == "delete":
            # A namesake may have been recorded since: its entry stays.
            if known is not None and known.uid == change.uid:
                del self.finished[key]
                ours = True
            if ours and key not in self.begun:
                self._changes[f"{self._resource} {key}"] = None
        else:
            self.finished[key] = Finished(change.uid, change.version, change.digest)
            self._changes[f"{self._resource} {key}"] = f"{change.uid} {change.version} {change.digest}".encode()
        self._advance(change.version)

    def listed(self, version: str, truth: bool, first: bool) -> None:
        """A list was complete at ``version``. ``first``: it belongs to the first start ever."""
        header = self._header
        if first and header.baseline is None:
            header.baseline = version
            self._header_changed = True
        if truth and header.version != version:
            header.version = version
            self._header_changed = True

    async def save(self) -> None:
        """Write what changed since the last save, as one change. Raises `StoreUnavailable`; then nothing is
        forgotten."""
        if self._checkpoints is None or not self.changed:
            self._changes.clear()
            self._header_changed = False
            return
        changes, self._changes = self._changes, {}
        header_changed, self._header_changed = self._header_changed, False
        if header_changed:
            changes = {**changes, self._resource: msgspec.json.encode(self._header)}
        try:
            await self._checkpoints.save(self._scope, changes)
        except BaseException:
            changes.pop(self._resource, None)
            self._changes = {**changes, **self._changes}
            self._header_changed = self._header_changed or header_changed
            raise

    def _advance(self, version: str) -> None:
        header = self._header
        if version and (not header.version or newer(version, header.version)):
            header.version = version
            self._header_changed = True
