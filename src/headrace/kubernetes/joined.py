"""The informers that one handler listens to: which they are, as its rights come and go, and what each has shown it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from headrace.errors import HeadraceError
from headrace.kubernetes.access import scopes
from headrace.kubernetes.connection import Connection
from headrace.kubernetes.index import Index
from headrace.kubernetes.informer import Informer, Selection, Subscriber
from headrace.kubernetes.objects import stripped
from headrace.kubernetes.reflector import Timing
from headrace.kubernetes.resources import Resource
from headrace.kubernetes.significance import compile_digest
from headrace.kubernetes.store import Delta, Store

if TYPE_CHECKING:
    from headrace.kubernetes.watch import Watch

__all__ = ["Joined"]

_log = logging.getLogger("headrace.kubernetes")

#: Seconds between looks at what RBAC allows now, where that limits the scope.
_RESCOPE_EVERY: Final = 60.0


class Joined:
    """One watch's informers, one for the cluster or one a namespace, each with the store of what it has shown.

    Args:
        watch: what is watched.
        subscriber: who is told.
        timing: of the informers; default: theirs.

    Attributes:
        informers: by what they watch.
        listed: those that have been listed once.
    """

    def __init__(self, watch: Watch, subscriber: Subscriber, timing: Timing | None) -> None:
        self.informers: dict[Selection, Informer] = {}
        self.listed: set[Selection] = set()
        self._stores: dict[Selection, Store] = {}
        self._watch = watch
        self._subscriber = subscriber
        self._timing = timing
        self._digest = compile_digest(watch.changes) if watch.changes else None
        keeps = watch.previous or watch.resync is not None
        self._keep: Callable[[bytes], bytes] | None = stripped if keeps else None

    def find(self, selection: Selection) -> tuple[Informer, Store] | None:
        """The informer of a selection and what it has shown; ``None`` where it is not listened to any more."""
        informer, store = self.informers.get(selection), self._stores.get(selection)
        return None if informer is None or store is None else (informer, store)

    def join(self, connection: Connection, resource: Resource, namespaces: Sequence[str], index: Index) -> None:
        """Listen in these namespaces as well (an empty name: the whole cluster), from what the checkpoint knows on."""
        watch = self._watch
        for namespace in namespaces:
            selection = Selection(
                watch.resource, namespace, watch.label_selector, watch.field_selector, watch.metadata_only
            )
            if selection in self.informers:
                continue
            store = Store(keep=self._keep, digest=self._digest, baseline=index.baseline)
            store.know(index.finished, index.begun, namespace)
            self._stores[selection] = store
            informer = connection.informer(selection, resource, self._timing)
            self.informers[selection] = informer
            informer.join(self._subscriber, floor=index.version, cache=watch.cache)

    async def leave(self, connection: Connection) -> None:
        """Listen no more."""
        informers = list(self.informers.values())
        self.informers.clear()
        self.listed.clear()
        self.forget()
        for informer in informers:
            await connection.unwatch(informer, self._subscriber)

    def forget(self) -> None:
        """Whatever the informers still say is nobody's."""
        self._stores.clear()

    async def follow_rights(self, connection: Connection, resource: Callable[[], Resource], index: Index) -> None:
        """Where RBAC limits the scope, namespaces come and go with it. Never ends by itself."""
        if self._watch.namespaces is not None:
            await asyncio.Event().wait()
        while True:
            await asyncio.sleep(_RESCOPE_EVERY)
            whole = [selection for selection in self.informers if not selection.namespace]
            if whole and not any(informer.reflector.forbidden for informer in self.informers.values()):
                continue
            try:
                found = await scopes(connection.client, resource(), None)
            except HeadraceError as error:
                _log.warning("%s: what RBAC allows could not be asked: %s", self._watch.name, error)
                continue
            for selection in [selection for selection in self.informers if found and selection.namespace not in found]:
                informer = self.informers.pop(selection)
                self._stores.pop(selection, None)
                await connection.unwatch(informer, self._subscriber)
            self.join(connection, resource(), found, index)

    def refresh(self) -> None:
        """Have everything listed anew: something was missed."""
        for informer in self.informers.values():
            informer.refresh()

    def resync(self) -> Iterator[Delta]:
        """Every object's state again."""
        for store in self._stores.values():
            yield from store.resync()

    @property
    def connected(self) -> bool:
        """There are informers, and each watches."""
        return bool(self.informers) and all(informer.connected for informer in self.informers.values())

    @property
    def trouble(self) -> str:
        """What is amiss with one of them, in one sentence; empty when nothing is."""
        return next((informer.trouble for informer in self.informers.values() if informer.trouble), "")

    @property
    def last_progress(self) -> float:
        """``time.monotonic()`` of the last bytes from the server."""
        return max((informer.last_progress for informer in self.informers.values()), default=0.0)

    @property
    def restarts(self) -> dict[str, int]:
        """How often a watch had to begin anew, by reason."""
        counts: dict[str, int] = {}
        for informer in self.informers.values():
            for reason, count in informer.reflector.restarts.items():
                counts[reason] = counts.get(reason, 0) + count
        return counts
