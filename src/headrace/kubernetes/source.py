"""The source behind `Watch`: from facts to deliveries, from settlements to the checkpoint.

It promises what the delivery page promises of a source without acknowledgements: an object's changes in order and one
at a time; nothing skipped but states that a newer one replaced before anybody took them; after a restart, of any
kind, what was missed, deletions included, and nothing again that was finished and saved.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from headrace.engine.source import Progress
from headrace.errors import HeadraceError
from headrace.kubernetes.access import scopes
from headrace.kubernetes.backlog import Backlog
from headrace.kubernetes.composition import Composer, WatchDelivery
from headrace.kubernetes.connection import Connection
from headrace.kubernetes.index import Index
from headrace.kubernetes.informer import Selection
from headrace.kubernetes.joined import Joined
from headrace.kubernetes.kubeconfig import resolve
from headrace.kubernetes.presence import still_exists
from headrace.kubernetes.reflector import Fact, Present, Replaced, Timing
from headrace.kubernetes.resources import Resource, ResourceAbsent
from headrace.kubernetes.saving import Saving
from headrace.kubernetes.store import Delta
from headrace.kubernetes.trimming import give_back
from headrace.kubernetes.turns import take_turns

if TYPE_CHECKING:
    from headrace.engine.broker import Binding
    from headrace.engine.delivery import Delivery, Outcome
    from headrace.engine.ledger import Identity
    from headrace.engine.source import Credit
    from headrace.kubernetes.watch import Watch

__all__ = ["WatchSource"]

_log = logging.getLogger("headrace.kubernetes")

#: Seconds between attempts to begin, growing to the second number.
_BEGIN: Final = (0.5, 5.0)


class WatchSource:
    """Implements `headrace.engine.source.Source` for one watch and one handler.

    Attributes:
        restarts: how often the watch had to begin anew, by reason.
    """

    keeps_order = True
    default_lane = "object"
    extend_every: float | None = None
    #: The checkpoint knows what was finished; the ledger is asked by transactional handlers only.
    idempotent = False

    def __init__(self, watch: Watch, binding: Binding, *, timing: Timing | None = None) -> None:
        self.name = watch.name
        self._watch = watch
        self._binding = binding
        self._budget = binding.prefetch.bytes
        self._connection: Connection | None = None
        self._composer: Composer | None = None
        self._resource: Resource | None = None
        self._checkpoint = Saving(Index(None, binding.durable, watch.resource), spawn=self._spawn, ours=self._is_ours)
        self._backlog = Backlog(hold=self._is_behind_our_write)
        self._joined = Joined(watch, self, timing)
        self._out: dict[str, WatchDelivery] = {}
        self._behind = False
        self._bulky = False  # a list came since memory was given back
        self._closed = False
        self._trouble = "not started"
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    # The engine's side

    async def open(self) -> None:
        """Reach the API server. What else is missing (a CRD, rights, the lease) is waited for, and told by `progress`.

        Raises:
            ConfigurationError: no usable kubeconfig.
            ConnectionFailed: no answer within ``ready_within``, or the credentials were refused.
        """
        settings = self._binding.settings
        cluster = resolve(
            self._watch.kubeconfig or settings.get("kubernetes_kubeconfig"),
            self._watch.context or settings.get("kubernetes_context"),
        )
        self._connection = Connection.acquire(cluster)
        try:
            await self._connection.reach(self._binding.ready_within)
        except BaseException:
            connection, self._connection = self._connection, None
            await connection.release()
            raise
        self._spawn(self._live(self._connection))
        if self._watch.resync is not None:
            self._spawn(self._resync(self._watch.resync))

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Changes of objects none of whose changes is in hand already."""
        backlog = self._backlog
        while not backlog.ready:
            if self._closed:
                return []
            self._wake.clear()
            await self._wake.wait()
        composer = self._composer
        assert composer is not None
        batch: list[WatchDelivery] = []
        size = 0
        while backlog.ready and len(batch) < credit.items:
            delta = backlog.take()
            if delta.verb == "delete" and composer.core_events and not self._watch.expiry:
                self._checkpoint.finish(delta)
                self._checkpoint.soon()
                backlog.done(delta.key)
                continue
            held = composer.size(delta)
            if batch and size + held > credit.bytes:
                backlog.put_back(delta)
                break
            size += held
            # What a process may have died of comes back in the first list of the next one.
            delivery = WatchDelivery(self, composer.event(delta), held, redelivered=delta.listed)
            delivery.delta = delta
            delivery.lane = composer.lane(delta)
            delivery.scope = self._watch.resource
            attempts = self._checkpoint.index.attempts(delta)
            if attempts is not None:
                delivery._history = attempts
                delivery.attempt = attempts.count
            self._out[delta.key] = delivery
            self._checkpoint.begin(delta)
            batch.append(delivery)
        self._catch_up()
        try:
            await self._checkpoint.begun()
        except BaseException:
            for delivery in batch:
                if self._out.pop(delivery.delta.key, None) is not None:
                    backlog.put_back(delivery.delta)
            raise
        return [one for one in batch if self._out.get(one.delta.key) is one] or await self.fetch(credit)

    def default_key(self, delivery: WatchDelivery) -> str:
        """Collection and namespace/name."""
        return delivery.lane

    def identity(self, delivery: WatchDelivery) -> Identity:
        """Its name in the ledger of a transactional handler: the object's state, whether it is told as added or as updated.
        A resync is never known from before."""
        assert delivery.event is not None
        delta = delivery.delta
        what = f"resync {delta.observed}" if delta.resync else "gone" if delta.verb == "delete" else "state"
        return delivery.event.source, f"{delta.uid}:{delta.version}:{what}"

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Note how a change ended; the checkpoint is saved soon."""
        assert isinstance(delivery, WatchDelivery)
        delta = delivery.delta
        if self._out.get(delta.key) is not delivery:
            return  # given up in the meantime: another replica leads
        del self._out[delta.key]
        if outcome.kind in ("ack", "dead", "drop"):
            if not delta.resync:
                self._checkpoint.finish(delta)
            self._backlog.done(delta.key)
        else:
            self._backlog.put_back(delta)
        self._go_on()

    async def record(self, deliveries: Sequence[Delivery]) -> None:
        """Save the failed attempts of these with the checkpoint. Raises `StoreUnavailable`."""
        for delivery in deliveries:
            assert isinstance(delivery, WatchDelivery)
            if delivery._history is not None and self._out.get(delivery.delta.key) is delivery:
                self._checkpoint.index.failed(delivery.delta, delivery._history)
        await self._checkpoint.now()

    async def flush(self) -> Sequence[Delivery]:
        """Save the checkpoint. Raises `StoreUnavailable`; then nothing is forgotten and a later flush saves it."""
        await self._checkpoint.now()
        return ()

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing expires here."""

    async def close(self) -> None:
        """Stop watching and give the connection back. What was not handed over is not in the checkpoint: it comes
        again."""
        self._closed = self._checkpoint.closed = True
        self._wake.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is None:
            return
        await self._leave(connection)
        if self._watch.lease is not None:
            await self._watch.lease.elector(connection).release()
        await connection.release()

    def progress(self) -> Progress:
        """Where the watch stands."""
        joined = self._joined
        oldest = self._backlog.oldest
        lease, connection = self._watch.lease, self._connection
        owner = None if lease is None or connection is None else lease.elector(connection).leads
        return Progress(
            connected=owner is False or joined.connected,
            lag_events=len(self._backlog),
            lag_seconds=0.0 if oldest is None else max(0.0, time.time() - oldest),
            last_progress=joined.last_progress,
            owner=owner,
            reconnects=sum(self.restarts.values()),
            detail=(self._trouble or joined.trouble) if owner is not False else "",
        )

    @property
    def restarts(self) -> dict[str, int]:
        return self._joined.restarts

    # The informers' side

    def facts(self, selection: Selection, facts: list[Fact]) -> None:
        """What the server has shown."""
        found = self._joined.find(selection)
        if found is None:
            return
        informer, store = found
        if informer.resource is not self._resource:
            self._compose(informer.resource)
        now = time.time()
        for fact in facts:
            if self._behind:
                break  # a new list will say what this would have said
            if isinstance(fact, Present) and self._backlog.size > self._budget and not self._backlog.idle:
                self._behind = True
                break
            first = store.baseline is None
            listed = selection not in self._joined.listed
            for delta in store.apply(fact):
                delta.observed = now
                delta.listed = listed
                self._take_in(delta, selection)
            if isinstance(fact, Replaced):
                self._bulky = True
                self._joined.listed.add(selection)
                self._checkpoint.index.listed(fact.version, fact.truth, first)
                self._checkpoint.soon()
                self._backlog.reconsider()
        self._go_on()

    def _go_on(self) -> None:
        """Have the handler take what can be taken, or see to what waited for that to end."""
        if self._backlog.ready:
            self._wake.set()
            return
        self._catch_up()
        if self._bulky:
            self._lighten()

    def _catch_up(self) -> None:
        """Ask for a new list after something was left out for want of room, as soon as there is room, or nothing left
        to do but to hear what is new."""
        if self._behind and (self._backlog.size < self._budget // 2 or self._backlog.idle):
            self._behind = False
            self._joined.refresh()

    def _lighten(self) -> None:
        """A list has gone by, perhaps for good."""
        if not self._out:
            self._bulky = False
            asyncio.get_running_loop().call_soon(give_back)

    def _take_in(self, delta: Delta, selection: Selection) -> None:
        if delta.initial and not self._watch.initial:
            self._checkpoint.finish(delta)
            self._checkpoint.soon()
            return
        self._backlog.add(delta)
        if delta.verb == "delete" and (selection.labels or selection.fields):
            # Gone, or only out of the selector? The server is asked before anybody is told.
            self._backlog.block(delta.key)
            self._spawn(self._find_out(delta, selection))

    async def _find_out(self, delta: Delta, selection: Selection) -> None:
        try:
            found = self._joined.find(selection)
            if found is not None and self._connection is not None:
                delta.deselected = await still_exists(self._connection.client, found[0].resource, delta.key, delta.uid)
        finally:
            self._backlog.unblock(delta.key)
            self._go_on()

    def _is_behind_our_write(self, delta: Delta) -> bool:
        connection, resource = self._connection, self._resource
        if connection is None or resource is None:
            return False
        return connection.writes.ahead_of(resource.name, delta)

    # Beginning and ending

    async def _live(self, connection: Connection) -> None:
        lease = self._watch.lease
        if lease is None:
            await self._lead(connection)
        else:
            await take_turns(
                lease.elector(connection),
                lead=lambda: self._lead(connection),
                give_up=self._give_up,
                leave=lambda: self._leave(connection),
            )

    async def _lead(self, connection: Connection) -> None:
        await self._begin(connection)
        await self._joined.follow_rights(connection, self._served, self._checkpoint.index)

    def _give_up(self, reason: str) -> None:
        """What is in hand belongs to the next leader."""
        for delivery in list(self._out.values()):
            delivery.void(reason)
        self._out.clear()
        self._forget()

    async def _begin(self, connection: Connection) -> None:
        """Find the resource, the scope and the checkpoint, and join the informers; for as long as it takes."""
        pause, longest = _BEGIN
        while True:
            try:
                resource = await connection.resources.find(self._watch.resource)
                found = await scopes(connection.client, resource, self._watch.namespaces)
                if not found:
                    raise ResourceAbsent(
                        f"RBAC allows to list and watch {resource.name} neither in the cluster nor in any namespace that "
                        "can be seen; grant it (headrace manifest --rbac)"
                    )
                index = Index(self._binding.checkpoints, self._binding.durable, resource.name)
                await index.load(await connection.identity())
                self._checkpoint.index = index
            except HeadraceError as error:  # of any kind, nothing is skipped while it is waited for
                if str(error) != self._trouble:
                    _log.warning("%s: %s", self.name, error)
                self._trouble = str(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)
                continue
            self._trouble = ""
            self._compose(resource)
            self._joined.join(connection, resource, found, index)
            return

    def _served(self) -> Resource:
        """The resource as the server serves it now."""
        assert self._resource is not None
        return self._resource

    def _compose(self, resource: Resource) -> None:
        assert self._connection is not None
        self._resource = resource
        watch = self._watch
        self._composer = Composer(
            self._connection.cluster.server, resource, previous=watch.previous, knative=watch.knative_types
        )

    def _forget(self) -> None:
        self._backlog.clear()
        self._behind = False  # whoever joins the informers again is shown everything
        self._joined.forget()

    async def _leave(self, connection: Connection) -> None:
        self._forget()
        await self._joined.leave(connection)

    async def _resync(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            now = time.time()
            for delta in self._joined.resync():
                if delta.key not in self._out and self._backlog.waiting(delta.key) is None:
                    delta.observed = now
                    self._backlog.add(delta)
            if self._backlog.ready:
                self._wake.set()

    def _is_ours(self) -> bool:
        lease, connection = self._watch.lease, self._connection
        return lease is None or connection is None or lease.elector(connection).leads

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._trouble = f"{self.name} stopped: {task.exception()!r}"
            _log.error("%s", self._trouble, exc_info=task.exception())
