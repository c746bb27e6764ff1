"""Runs one handler: lanes by key, and the workers that walk them.

A lane is no object: it is the chain of deliveries that share a key, linked from the head (ready, running or parked) to
the tail, which ``lanes`` knows. A lane that empties is gone at once.

Workers are few tasks that walk the ready heads and start attempts directly. A worker whose handler suspends wakes
another one while there is work, so a handler that never suspends needs one task for all its events and one that waits for
I/O as many as its concurrency. Nothing here is per event but what an event itself needs.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context
from time import perf_counter
from typing import TYPE_CHECKING, Any

from headrace.engine.breaker import Breaker
from headrace.engine.context import call_plain, carry_on, first_step
from headrace.engine.deadlines import Deadlines
from headrace.engine.failpoints import passing
from headrace.engine.measures import HandlerMeasures
from headrace.engine.outcomes import Outcomes
from headrace.engine.parking import Parking
from headrace.engine.suspicion import Suspicion

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery
    from headrace.engine.handler import Handler
    from headrace.engine.runtime import Runtime
    from headrace.engine.subscription import Subscription

__all__ = ["Runner"]

#: Seconds that a worker walks before it lets the loop do other things.
SLICE = 0.005


class Runner:
    """One handler at work. ``held_items`` and ``held_bytes`` count what was fetched and is neither settled nor parked."""

    def __init__(self, handler: Handler, runtime: Runtime) -> None:
        self.handler = handler
        self.runtime = runtime
        self.measures = HandlerMeasures(handler.name, handler.concurrency)
        self.limit = handler.concurrency
        self.ready: deque[Delivery] = deque()
        self.lanes: dict[str, Delivery] = {}
        self.parking = Parking(handler.parked)
        self.subscriptions: list[Subscription] = []
        self.held_items = 0
        self.held_bytes = 0
        self.inflight = 0
        self.paused = False
        self.stopping = False
        #: Deliveries that may start although the gate is closed: a probe, a suspect that runs alone.
        self.let_through: set[Delivery] = set()
        self._granted = 0
        self._pauses: set[str] = set()
        self.deadlines = Deadlines(handler.timeout, self._expired)
        self.breaker = Breaker(self, runtime.breaker)
        self.outcomes = Outcomes(self)
        self.suspicion = Suspicion(self, runtime.suspects) if runtime.suspects is not None else None
        self._slots = runtime.slots
        self._executor: Executor | None = None
        self._loop = asyncio.get_running_loop()
        self._idle: list[asyncio.Future[None]] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._walking = 0
        self._context: Context = runtime.context
        self._first_step = first_step(handler.signature.call)
        self._handled = passing("handled")

    def take_part(self, call: Callable[[Delivery], Any]) -> None:
        """Have attempts run as this coroutine function does: for transactional handlers, before anything is fetched."""
        self._first_step = first_step(call)

    @property
    def transactional(self) -> bool:
        """Whether the handler's attempts are transactions of the store."""
        return self.handler.signature.transaction is not None

    # Lanes

    def enqueue(self, delivery: Delivery) -> None:
        """Put a delivery at the end of its lane."""
        key = delivery._lane
        if key is None:
            self.ready.append(delivery)
            return
        tail = self.lanes.get(key)
        self.lanes[key] = delivery
        if tail is None:
            self.ready.append(delivery)
            return
        tail._next = delivery
        if self.parking.heads:
            head = self.parking.heads.get(key)
            if head is not None:
                self.parking.arrived(head, delivery)
                self.held_items -= 1
                self.held_bytes -= delivery.size

    def free_lane(self, delivery: Delivery) -> None:
        """The head of a lane is finished: the next one is ready, or the lane is gone."""
        key = delivery._lane
        if key is None:
            return
        follower = delivery._next
        if follower is None:
            del self.lanes[key]
        else:
            delivery._next = None
            self.ready.append(follower)
            if not self._walking:
                self.wake()

    def park(self, delivery: Delivery, due: float) -> None:
        """Park a lane from its head, or a single delivery, until ``due`` (loop time)."""
        items, size = self.parking.park(delivery, due)
        self.held_items -= items
        self.held_bytes -= size
        self.parking.places[delivery].timer = self._loop.call_at(due, self.unpark, delivery)
        self.fetch_more()

    def unpark(self, delivery: Delivery) -> None:
        """A parked lane is due."""
        if delivery not in self.parking.places:
            return
        items, size = self.parking.leave(delivery)
        self.held_items += items
        self.held_bytes += size
        self.ready.append(delivery)
        if not self._walking:
            self.wake()

    def released(self, items: int, size: int) -> None:
        """So much has been settled: there is new credit."""
        self.held_items -= items
        self.held_bytes -= size
        self.fetch_more()

    def fetch_more(self) -> None:
        """Let the subscriptions look at the credit again."""
        for subscription in self.subscriptions:
            subscription.look()

    def on_void(self, delivery: Delivery) -> None:
        """Its source lost a delivery (`Delivery.void`)."""
        if self.outcomes.claims.void_waiting(delivery):
            return
        delivery._claim = "lost" if delivery._claim in ("ours", "busy") else "void"
        if delivery._task is not None:
            self.cancel(delivery, "void")
        elif delivery in self.parking.places:
            self.unpark(delivery)

    # Pausing

    def pause(self, why: str) -> None:
        """Start nothing more and fetch nothing more until every reason is gone; what runs goes on."""
        self._pauses.add(why)
        self.paused = True

    def resume(self, why: str) -> None:
        """One reason to pause is gone."""
        self._pauses.discard(why)
        if self.paused and not self._pauses:
            self.paused = False
            self.fetch_more()
            if self.ready and not self._walking:
                self.wake()

    def paused_by(self, why: str) -> bool:
        """Whether this is a reason why it is paused."""
        return why in self._pauses

    def slots_open(self) -> bool:
        """Whether the app lets anything start: not while a suspect runs alone."""
        return self._slots.limit > 0

    def let_pass(self, delivery: Delivery) -> None:
        """Start this one, whatever the gate says."""
        self.let_through.add(delivery)
        self.ready.appendleft(delivery)
        self.wake()

    def grant(self) -> bool:
        """A slot is free for one attempt of this handler; ``False`` where none can start now."""
        may_start = not self.stopping and self.ready and (not self.paused or self.ready[0] in self.let_through)
        if not may_start or not (self._walking or self._idle or len(self._workers) < self.limit):
            return False
        self._granted += 1
        if not self._walking:
            self.wake()
        return True

    # Workers

    def wake(self) -> None:
        """Have one more worker walk the ready lanes, if the concurrency allows it."""
        if self.stopping:
            return
        if self.paused and not self.let_through:
            self.breaker.joined()
            return
        if self._idle:
            self._walking += 1
            self._idle.pop().set_result(None)
        elif len(self._workers) < self.limit:
            self._walking += 1
            task = self._loop.create_task(self._work())
            self._workers.add(task)
            task.add_done_callback(self._worker_ended)

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        self._workers.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.runtime.defect(task.exception())

    async def _work(self) -> None:
        ready = self.ready
        popleft = ready.popleft
        slots = self._slots
        outcomes = self.outcomes
        finished = outcomes.settle
        start = self._first_step
        base = self._context
        lanes = self.lanes
        duration = self.measures.duration
        counts, bounds = duration.counts, duration.bounds
        quickest = bounds[0]
        handled = self._handled
        tracer, name = self.runtime.tracer, self.handler.name
        threaded = not self.handler.signature.is_async
        deadline_of_slice = perf_counter() + SLICE
        while True:
            if not ready or self.stopping or self.paused or (slots.used >= slots.limit and not self._granted):
                if not ready or self.stopping or ready[0] not in self.let_through:
                    self._rest()
                    idle: asyncio.Future[None] = self._loop.create_future()
                    self._idle.append(idle)
                    await idle
                    deadline_of_slice = perf_counter() + SLICE
                    continue
                self.let_through.discard(ready[0])
            delivery = popleft()
            if delivery._claim is not None and not outcomes.claims.admit(delivery):
                continue
            delivery.attempt += 1
            delivery._calls = 0
            context = base.copy()
            if tracer is not None:
                delivery._span = tracer.attempt(delivery, name, context)
            started = perf_counter()
            error: BaseException | None = None
            result: Any = None
            if threaded:
                result, error = await self._in_thread(delivery, context)
                deadline_of_slice = perf_counter() + SLICE
            else:
                try:
                    waiting = context.run(start, delivery)
                except StopIteration as stop:
                    result = stop.value
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as raised:  # noqa: BLE001 - every failure of a handler is an outcome
                    error = raised
                else:
                    result, error = await self._suspended(delivery, context, waiting)
                    deadline_of_slice = perf_counter() + SLICE
            ended = perf_counter()
            seconds = ended - started
            duration.total += seconds
            if seconds <= quickest:
                counts[0] += 1
            else:
                counts[bisect_left(bounds, seconds)] += 1
            if handled is not None and error is None:
                handled(1)
            if tracer is not None:
                delivery._span.end(error)
            if error is not None or delivery._cancel is not None:
                outcomes.failures.failed(delivery, error)
            elif result is not None:
                outcomes.returned(delivery, result)
            elif delivery.voided is not None:
                outcomes.voided(delivery)
            else:
                finished.items.append(delivery)
                if finished.waiting:
                    finished.wake()
                key = delivery._lane
                if key is not None:
                    follower = delivery._next
                    if follower is None:
                        del lanes[key]
                    else:
                        delivery._next = None
                        ready.append(follower)
            if ended > deadline_of_slice:
                await asyncio.sleep(0)
                deadline_of_slice = perf_counter() + SLICE

    def _rest(self) -> None:
        """A worker finds nothing to start, and who should know of it is told."""
        self._walking -= 1
        slots = self._slots
        while self._granted and not self._walking:
            self._granted -= 1
            slots.give_back()
        if self.ready and not self.stopping:
            if self.paused:
                self.breaker.joined()
            elif slots.used >= slots.limit and self not in slots.waiting:
                slots.waiting.append(self)

    async def _suspended(self, delivery: Delivery, context: Context, waiting: Any) -> tuple[Any, BaseException | None]:
        """Carry on an attempt that waits for something, under its deadline; other lanes are walked meanwhile."""
        task = asyncio.current_task()
        assert task is not None
        self._take_slot()
        self._walking -= 1
        if self.ready and not self._walking:
            self.wake()
        delivery._task = task
        self.deadlines.add(delivery)
        try:
            return await carry_on(context, delivery._run, waiting), None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as raised:
            if delivery._cancel is None and task.cancelling():
                raise  # the worker itself is cancelled: the app is being torn down
            return None, raised
        finally:
            self.deadlines.remove(delivery)
            delivery._task = None
            self._walking += 1
            self._give_slot_back()
            while delivery._cancel is not None and task.cancelling():
                task.uncancel()

    async def _in_thread(self, delivery: Delivery, context: Context) -> tuple[Any, BaseException | None]:
        """Run a plain function in the pool. Its deadline is noted, but slot and lane stay until the thread ends."""
        if self._executor is None:
            self._executor = self.runtime.threads()
        call = self.handler.signature.call
        self._take_slot()
        self._walking -= 1
        if len(self.ready) and not self._walking:
            self.wake()
        self.deadlines.add(delivery)
        try:
            with self.runtime.real_time():
                running = self._loop.run_in_executor(self._executor, context.run, call_plain, call, delivery)
                return await asyncio.shield(running), None
        except asyncio.CancelledError:
            raise
        except BaseException as raised:  # noqa: BLE001 - every failure of a handler is an outcome
            return None, raised
        finally:
            self.deadlines.remove(delivery)
            self._walking += 1
            self._give_slot_back()

    def _take_slot(self) -> None:
        """Only an attempt that suspends holds a slot: between two steps of the loop no other runs anyway."""
        if self._granted:
            self._granted -= 1
        else:
            self._slots.used += 1
        self.inflight += 1

    def _give_slot_back(self) -> None:
        self.inflight -= 1
        self._slots.give_back()

    def _expired(self, delivery: Delivery) -> None:
        if delivery._task is None:
            delivery._cancel = "timeout"
        else:
            self.cancel(delivery, "timeout")

    def cancel(self, delivery: Delivery, why: str) -> None:
        """Cancel the running attempt inside the handler's frame; ``why`` is ``timeout``, ``void`` or ``drain``."""
        if delivery._cancel is None:
            delivery._cancel = why
        if delivery._task is not None:
            delivery._task.cancel()

    # Draining

    def stop(self) -> list[Delivery]:
        """Start nothing more. Returns what was fetched and not started, in the order of each lane."""
        self.stopping = True
        heads = list(self.ready)
        self.ready.clear()
        for head in list(self.parking.places):
            items, size = self.parking.leave(head)
            self.held_items += items
            self.held_bytes += size
            heads.append(head)
        heads.extend(self.outcomes.claims.take_waiting())
        unstarted = []
        for running in [*self.deadlines.running(), *self.outcomes.waiting_lanes]:
            # The head goes on to its end; what waits behind it does not begin.
            follower, running._next = running._next, None
            if follower is not None:
                heads.append(follower)
        for head in heads:
            waiting: Delivery | None = head
            while waiting is not None:
                unstarted.append(waiting)
                behind, waiting._next = waiting._next, None
                waiting = behind
        return unstarted

    async def close(self) -> None:
        """End the workers and the stages. Attempts that still run are cancelled and not counted."""
        self.stopping = True
        self.deadlines.close()
        for task in list(self._workers):
            task.cancel()
        if self._workers:
            await asyncio.gather(*self._workers, return_exceptions=True)
        await self.breaker.close()
        if self.suspicion is not None:
            await self.suspicion.close()
        await self.outcomes.close()

    @property
    def store_trouble(self) -> str:
        """One sentence while a store that the handler needs does not answer, else empty."""
        return self.outcomes.store_trouble

    def health_detail(self) -> str:
        """One sentence where something holds the handler up, else empty."""
        if self.parking.full:
            return (
                f"handler {self.handler.name!r}: the budget for parked deliveries is used up "
                f"({self.parking.items} of {self.parking.budget.items}), most of them behind key {self.parking.largest()!r}; "
                "its sources are paused until that key recovers"
            )
        return self.breaker.detail() or self.outcomes.trouble
