"""One source bound to one handler: fetches by credit, decides what each delivery is, and puts it in its lane.

decode (the source's) → expired → filter → data and key → claim → lane, for a whole batch at a time. An event that is
filtered out is never judged by the handler's type or key.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

from headrace.engine.delivery import ACK, Delivery, Outcome
from headrace.engine.failpoints import passing
from headrace.engine.ledger import CLAIMED, Identity
from headrace.engine.measures import SourceMeasures
from headrace.engine.source import Credit, Source
from headrace.errors import HeadraceError, InvalidEvent, words

if TYPE_CHECKING:
    from headrace.engine.runner import Runner

__all__ = ["Subscription"]

log = logging.getLogger("headrace.engine")

#: Seconds between a settlement and the flush that confirms it and those that came meanwhile.
FLUSH_EVERY = 0.2


class _Settled:
    """Stands for the source of a delivery that was acknowledged before it runs: there is nothing more to tell it."""

    __slots__ = ("keeps_order", "name")

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.keeps_order = source.keeps_order

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """How it ended is nobody's business any more."""


class Subscription:
    """Feeds one runner from one source."""

    def __init__(self, runner: Runner, source: Source) -> None:
        self.runner = runner
        self.source = source
        self.measures = SourceMeasures(source.name)
        self.held: set[Delivery] = set()
        self._ledger = runner.outcomes.ledger is not None
        self._default_key = None if runner.handler.key is not None else getattr(source, "default_key", None)
        self._identity = getattr(source, "identity", None)
        self._settled = _Settled(source)
        self._wake = asyncio.Event()
        self._fetching = False
        self._ask = getattr(source, "ask", None)
        #: The source's, where all of a batch can be told to it at once.
        self.acknowledge: Callable[[Sequence[Delivery]], None] | None = (
            None if runner.handler.ack_first else getattr(source, "acknowledge", None)
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._unflushed = 0
        self._loop = asyncio.get_running_loop()
        self._received = passing("received")
        self._claimed = passing("claimed")
        self._flushed = passing("flushed")

    def start(self) -> None:
        """Begin to fetch; the source is open."""
        self._tasks.append(self._loop.create_task(self._fetch()))
        if self.source.extend_every is not None:
            self._tasks.append(self._loop.create_task(self._extend(self.source.extend_every)))
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.runner.runtime.defect(task.exception())

    # Fetching

    def look(self) -> None:
        """The credit may have grown."""
        if self._fetching and self._ask is not None:
            credit = self.credit()
            if credit is not None:
                self._ask(credit)
        else:
            self._wake.set()

    def credit(self) -> Credit | None:
        """What may be fetched now, or ``None`` where it is not worth asking: a part of the prefetch is free before more
        is fetched, so that batches stay batches; with nothing held the whole of it is."""
        runner = self.runner
        if runner.stopping or runner.parking.full:
            return None
        if runner.paused:
            # A probe of the circuit breaker takes one event, where none is here.
            return Credit(1, runner.handler.prefetch.bytes) if runner.breaker.wants_one else None
        limit, size = runner.handler.prefetch
        limit += runner.limit
        items, space = limit - runner.held_items, size - runner.held_bytes
        if space <= 0 or items <= 0 or (items < limit // 4 and runner.held_items > 0):
            return None
        if runner.parking.items:
            # What comes may belong to a parked lane: it must not overrun the budget.
            room, bytes_left = runner.parking.room()
            items, space = min(items, room), min(space, bytes_left)
        return Credit(items, space)

    async def _fetch(self) -> None:
        source = self.source
        while True:
            credit = self.credit()
            if credit is None:
                self._wake.clear()
                if self.credit() is None:
                    await self._wake.wait()
                continue
            self._fetching = True
            batch = await source.fetch(credit)
            self._fetching = False
            if not batch:
                # The source drains by itself (it is being closed, or stands by): ask again, without haste.
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._wake.wait()
                continue
            if self._received is not None:
                self._received(len(batch))
            await self.take(batch)
            if len(batch) > 1:
                # It is begun before more is taken: the next batch is no sooner handled for being decoded.
                await asyncio.sleep(0)

    async def take(self, batch: Sequence[Delivery]) -> None:
        """Bring a batch into the lanes."""
        runner = self.runner
        handler = runner.handler
        decode, accept, key_of = handler.signature.decode, handler.accept, handler.key
        identify, default_key, own_identity = handler.identify, self._default_key, self._identity
        self.measures.received += len(batch)
        self.held.update(batch)
        runner.held_items += len(batch)
        runner.held_bytes += sum([delivery.size for delivery in batch])
        good: list[Delivery] = []
        identities: list[Identity] = []
        for delivery in batch:
            delivery._runner = runner
            event = delivery.event
            if event is None:
                self._unusable(delivery, "decode")
                continue
            attributes = event._attributes
            replayed = "replaynumber" in attributes
            if replayed:
                runner.measures.saw_replays = True
            if "expirytime" in attributes and runner.runtime.expired(event, 0.0):
                self._pass_by(delivery, "expired")
                continue
            stage = "filter"
            try:
                if accept is not None and not accept(event):
                    self._pass_by(delivery, "filtered")
                    continue
                stage = "data"
                if decode is not None:
                    delivery._data = decode(event)
                stage = "key"
                if key_of is not None:
                    delivery._lane = key_of(event, delivery._data if decode is not None else None)
                elif default_key is not None:
                    delivery._lane = default_key(delivery)
                if identify is not None:
                    stage = "idempotent"
                    identities.append(("", identify(event)))
                elif own_identity is not None:
                    identities.append(own_identity(delivery))
                else:
                    identities.append((attributes["source"], attributes["id"]))
                if replayed:
                    # A replay is an event of its own to the ledger: its first life is finished there.
                    source, id = identities[-1]
                    identities[-1] = (source, f"{id} replay {attributes['replaynumber']}")
            except InvalidEvent as error:
                delivery.error = error
                self._unusable(delivery, stage)
                continue
            except Exception as error:  # noqa: BLE001 - the user's own function failed on this event
                delivery.error = InvalidEvent(
                    f"the handler's {stage} function raised {type(error).__name__}: {words(error)}"
                )
                delivery.error.__cause__ = error
                self._unusable(delivery, stage)
                continue
            good.append(delivery)
        if handler.ack_first:
            good, identities = await self._acknowledge_first(good, identities)
        if good:
            first = good[0].event
            if first is not None and "time" in first._attributes:
                self._age(first)
            if self._ledger:
                await self._claim(good, identities)
            else:
                suspicion = runner.suspicion
                for delivery, identity in zip(good, identities, strict=True):
                    if delivery.redelivered and suspicion is not None and not suspicion.is_cleared(identity):
                        delivery._claim = "suspect"
                    runner.enqueue(delivery)
        if runner.ready and not runner._walking:
            runner.wake()

    async def _acknowledge_first(
        self, good: list[Delivery], identities: list[Identity]
    ) -> tuple[list[Delivery], list[Identity]]:
        """At most once: nothing runs before the source has confirmed that it will not come again. What it does not confirm
        is not run, for it comes again."""
        for delivery in good:
            self.source.settle(delivery, ACK)
        while True:
            try:
                missing = set(await self.source.flush())
                break
            except HeadraceError as error:
                log.warning("source %s: not acknowledged yet, nothing of it is handled: %s", self.source.name, error)
                await asyncio.sleep(FLUSH_EVERY)
        pairs = [(one, name) for one, name in zip(good, identities, strict=True) if one not in missing]
        for delivery in good:
            if delivery in missing:
                self.runner.outcomes.let_go(delivery)
            else:
                delivery.source = cast("Source", self._settled)
        return [one for one, _ in pairs], [name for _, name in pairs]

    async def _claim(self, good: list[Delivery], identities: list[Identity]) -> None:
        runner = self.runner
        outcomes = runner.outcomes
        claims = await outcomes.claims.claim(identities)
        if self._claimed is not None:
            self._claimed(len(good))
        ready, lanes = runner.ready, runner.lanes
        simple = not runner.parking.heads
        fresh = 0
        suspicion = runner.suspicion
        for delivery, identity, claim in zip(good, identities, claims, strict=True):
            delivery._identity = identity
            if claim is CLAIMED:
                fresh += 1
                if delivery.redelivered and suspicion is not None and not suspicion.is_cleared(identity):
                    delivery._claim = "suspect"
            else:
                outcomes.claims.take(delivery, claim)
                if delivery._claim == "finished":
                    outcomes.claims.duplicate(delivery)
                    continue
                if delivery.voided is not None:
                    if claim.state != "claimed":
                        # Lost, and the claim is another's: nothing is to be given back.
                        runner.measures.outcomes["cancelled"] += 1
                        outcomes.let_go(delivery)
                        continue
                    delivery._claim = "void"
            if simple:
                key = delivery._lane
                if key is None:
                    ready.append(delivery)
                else:
                    tail = lanes.get(key)
                    lanes[key] = delivery
                    if tail is None:
                        ready.append(delivery)
                    else:
                        tail._next = delivery
            else:
                runner.enqueue(delivery)
        runner.measures.lookups["fresh"] += fresh

    def _unusable(self, delivery: Delivery, stage: str) -> None:
        rejected = self.measures.rejected
        rejected[stage] = rejected.get(stage, 0) + 1
        self.runner.outcomes.failures.unusable(delivery)

    def _pass_by(self, delivery: Delivery, outcome: str) -> None:
        self.runner.measures.outcomes[outcome] += 1
        self.runner.outcomes.count_replays((delivery,), outcome)
        self.runner.outcomes.unmarked(delivery, ACK)

    def _age(self, event: object) -> None:
        """The age of one event a batch: what a histogram needs, at a price that does not count."""
        with contextlib.suppress(InvalidEvent):
            time = event.time  # type: ignore[attr-defined]
            self.runner.measures.age.add(max(0.0, self.runner.runtime.clock.now() - time.timestamp()))

    # Settlement

    def let_go(self, batch: Iterable[Delivery]) -> None:
        """These are settled: no longer extended, flushed soon."""
        before = len(self.held)
        if not before:
            return
        self.held.difference_update(batch)
        self._unflushed += before - len(self.held)
        if not self.held and self.runner.runtime.on_quiet is not None:
            self.runner.runtime.on_quiet()
        if self._unflushed and self._flush_timer is None:
            self._flush_timer = self._loop.call_later(FLUSH_EVERY, self._start_flush)

    def _start_flush(self) -> None:
        self._flushing = self._loop.create_task(self.flush())
        self._flushing.add_done_callback(self._ended)

    async def flush(self) -> None:
        """Have the broker confirm what was settled. What it does not confirm comes again, and the ledger knows it."""
        settled, self._unflushed = self._unflushed, 0
        try:
            missing = await self.source.flush()
        except BaseException as error:
            self._unflushed += settled
            if not isinstance(error, HeadraceError):
                raise
            log.warning("source %s: settlements are not confirmed yet: %s", self.source.name, error)
            missing = ()
            settled = 0
        finally:
            self._flush_timer = None
        if self._unflushed and not self.runner.stopping:
            self._flush_timer = self._loop.call_later(FLUSH_EVERY, self._start_flush)
        if missing:
            log.info(
                "source %s: %d settlements were not confirmed; they will come again", self.source.name, len(missing)
            )
        if self._flushed is not None:
            self._flushed(settled)

    async def _extend(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            if self.held:
                await self.source.extend(list(self.held))

    # Ending

    async def stop(self) -> None:
        """Fetch no more. Deliveries keep being extended until `close`."""
        fetching, *_ = self._tasks
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)

    async def close(self, within: float) -> None:
        """Flush and close the source, in so many seconds: a broker that is away does not keep a process that is to end. What
        was not confirmed comes again."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        if self._flushing is not None:
            await asyncio.gather(self._flushing, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        end = self._loop.time() + within
        try:
            async with asyncio.timeout_at(end - within / 2):
                await self.flush()
        except TimeoutError:
            log.warning("source %s: the last settlements were not confirmed in time", self.source.name)
        except Exception as error:  # noqa: BLE001 - a defect; the source is closed nonetheless
            self.runner.runtime.defect(error)
        try:
            async with asyncio.timeout_at(end):
                await self.source.close()
        except TimeoutError:
            log.warning("source %s could not be closed in time", self.source.name)
