"""One simulated process: the real engine, with calls to the world that fail, dawdle, or are its last.

SIGKILL is the end of every task of the process and of its way to the world; SIGSTOP holds every call back until it goes
on. Between two calls the engine does what it does in earnest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from headrace.app import App
from headrace.engine.clock import Clock
from headrace.engine.delivery import Delivery
from headrace.engine.runtime import Runtime
from headrace.errors import Drop, PublishFailed, Reject, RetryAfter, StoreUnavailable
from headrace.event import Event
from headrace.policy import Retry, exponential, none
from headrace.settings import Settings
from headrace.testing.simulation.stores import RENEW, Letters, Output, ProcessLedger, SharedLedger

if TYPE_CHECKING:
    from headrace.testing.simulation.brokers import Broker
    from headrace.testing.simulation.world import World

__all__ = ["CURRENT", "Process"]

#: The process that a task belongs to.
CURRENT: ContextVar[Process | None] = ContextVar("simulated process", default=None)

EPOCH = 1_700_000_000.0


class Process:
    """``name`` tells one start from the next. ``lapsed``: its lease was over at least once, so that others may overlap."""

    def __init__(self, world: World, name: str, broker: Broker, shared: SharedLedger | None) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.lapsed = False
        self.epoch = 0
        self.dies_at_call: tuple[int, bool] | None = None
        self.running: dict[str, str] = {}
        #: What its source has given up: never attempted after that.
        self.lost: set[Delivery] = set()
        self.tasks: list[asyncio.Task[Any]] = []
        self.broker = broker
        self.runtime: Runtime | None = None
        self.instrument: Callable[[Runtime], None] | None = None
        self._shared = shared
        self.dead = asyncio.Event()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._loop = asyncio.get_running_loop()

    # Life

    def start(self) -> None:
        """Begin, in a context of its own."""
        context = copy_context()
        context.run(CURRENT.set, self)
        self._loop.create_task(self._run(), context=context)

    async def _run(self) -> None:
        plan = self.world.plan
        app = App("simulated")
        app.on(
            "in",
            key="@partitionkey" if plan.ordered else None,
            concurrency=plan.concurrency,
            retry=Retry(attempts=plan.attempts, backoff=exponential(initial=0.5, factor=2, maximum=4, jitter=none)),
            timeout=20.0,
            publishes="out" if plan.publishes else None,
            name="handler",
        )(self._handle)
        (compiled,) = app.compile(Settings.resolve({"prefetch": plan.prefetch}, {}))
        output = Output(self)
        runtime = self.runtime = Runtime(
            app.name,
            ledger=ProcessLedger(self, self._shared),
            dead_letters=Letters(self),
            sink=lambda destination: output,
            clock=Clock(lambda: EPOCH + self._loop.time()),
            grace=10.0,
            fatal=self._fatal,
        )
        source = self.broker.source(self)
        if self._shared is not None:
            self._shared.renew(self, self._loop.time())
            self._loop.create_task(self._renew(self._shared))
        await source.open()
        runtime.add(compiled.handler, [source])
        if self.instrument is not None:
            self.instrument(runtime)
        runtime.start()

    async def _renew(self, shared: SharedLedger) -> None:
        while True:
            await asyncio.sleep(RENEW)
            try:
                await self.call("ledger", lambda now: shared.renew(self, now))
            except StoreUnavailable:
                continue

    def _fatal(self, code: int) -> None:
        assert self.runtime is not None
        if self.alive:
            self.world.breach(f"{self.name} ends by itself with {code}: {self.runtime.failure!r}")

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = False
        self.dead.set()
        self._loop.call_soon(self._cancel)
        self.broker.died(self)

    def _cancel(self) -> None:
        for task in self.tasks:
            task.cancel()

    async def drain(self) -> None:
        """SIGTERM; afterwards the process is gone."""
        if self.runtime is None or not self.runtime.started:
            self.kill()
            return
        context = copy_context()
        context.run(CURRENT.set, self)
        await self._loop.create_task(self.runtime.drain(), context=context)
        if self.alive:
            if self._shared is not None:
                self._shared.end(self)
            self.kill()

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        self._thawed.clear()
        self._loop.call_later(seconds, self._thawed.set)

    @property
    def frozen(self) -> bool:
        return not self._thawed.is_set()

    # Calls

    async def gate(self) -> None:
        """Where a dead process waits for ever and a frozen one until it goes on."""
        if not self.alive:
            await asyncio.Event().wait()
        if not self._thawed.is_set():
            await self._thawed.wait()

    async def call(self, part: str, effect: Callable[[float], Any], failure: type[Exception] = StoreUnavailable) -> Any:
        """One round trip: latency, then the effect, then the answer; any of them may fail or be the last."""
        world = self.world
        await asyncio.sleep(world.rng.choice((0.0, 0.001, 0.02)))
        if "slow" in world.away:
            await asyncio.sleep(world.rng.random() * 2)
        await self.gate()
        last, after = False, False
        if self.dies_at_call is not None:
            left, after = self.dies_at_call
            self.dies_at_call = (left - 1, after)
            last = left <= 1
        if last and not after:
            self.kill()
            await self.gate()
        late = world.away.get(part)
        if late is False:
            raise _failure(failure, part)
        answer = effect(self._loop.time())
        if last:
            self.kill()
        await asyncio.sleep(0)
        await self.gate()
        if late:
            raise _failure(failure, part)
        return answer

    # The handler

    async def _handle(self, event: Event, delivery: Delivery) -> dict[str, str] | None:
        world = self.world
        plan = world.plan
        id, key = event.id, event["partitionkey"]
        if delivery in self.lost:
            world.breach(f"{self.name} begins {id}, which it has lost")
        world.began(self, id, key)
        try:
            work = plan.work * world.rng.choice((0.0, 0.5, 1.0, 2.0))
            if work:
                await asyncio.sleep(work)
            if self.frozen:
                await self.gate()
            kind, times = plan.failures.get(id, ("", 0))
            if kind == "reject":
                world.rejected.add(id)
                raise Reject("never")
            if kind == "drop":
                world.drop(id)
                raise Drop("not wanted")
            if kind == "poison" or (kind and world.failed[id] < times):
                world.failed[id] += 1
                raise RetryAfter(1.0) if kind == "after" else ValueError("not yet")
            world.finished(self, id, key)
            return {"of": id} if plan.publishes else None
        except asyncio.CancelledError:
            # Its time was up, or it was lost: the engine knows which; an attempt may have failed.
            world.failed[id] += 1
            raise
        finally:
            world.ended(self, id)


def _failure(kind: type[Exception], part: str) -> Exception:
    if kind is StoreUnavailable:
        return StoreUnavailable(f"{part}: away")
    return PublishFailed(f"{part}: away", transient=True)
