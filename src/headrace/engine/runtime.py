"""All handlers of one app at work in one process: start, drain, and what health and metrics read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Final

from headrace.engine.breaker import Limits
from headrace.engine.checkpoints import Suspects
from headrace.engine.clock import Clock
from headrace.engine.dead_letters import DeadLetter, DeadLetterStore
from headrace.engine.delivery import HAND_BACK, Delivery
from headrace.engine.handler import Handler
from headrace.engine.ledger import Ledger
from headrace.engine.measures import SinkMeasures, StoreMeasures
from headrace.engine.runner import Runner
from headrace.engine.sink import Publication, Published, Sink
from headrace.engine.slots import Slots
from headrace.engine.source import Source
from headrace.engine.spans import Tracer
from headrace.engine.subscription import Subscription
from headrace.errors import InvalidEvent
from headrace.event import Event

__all__ = ["Runtime"]

log = logging.getLogger("headrace.engine")

#: Seconds after the end of the drain's grace in which the sources are closed: Kubernetes kills five seconds after it.
CLOSING: Final = 3.0


class Runtime:
    """The engine of one app.

    Parameters:
        app: its name. ledger, dead_letters: opened by the caller, who also closes them.
        sink: gives the open sink of what a handler's ``publishes`` names.
        concurrency: attempts at once over all handlers.
        grace: seconds that a drain may take.
        suspects: where starts of suspects are recorded after an unclean end, else ``None``.
        breaker: when a handler's circuit breaker opens.
        tracer: starts the spans of attempts, publishes and settlements (`headrace.observe.tracing`); ``None``: nothing is traced.
        fatal: called once with the exit code when the app must end by itself (``on_exhausted="stop"``: 1; a defect: 1).
    """

    def __init__(
        self,
        app: str,
        *,
        ledger: Ledger,
        dead_letters: DeadLetterStore,
        sink: Callable[[Any], Sink],
        concurrency: int = 512,
        grace: float = 25.0,
        clock: Clock | None = None,
        suspects: Suspects | None = None,
        breaker: Limits | None = None,
        tracer: Tracer | None = None,
        fatal: Callable[[int], None] | None = None,
    ) -> None:
        self.app_name = app
        self.ledger = ledger
        self.dead_letters = dead_letters
        self.slots = Slots(concurrency)
        self.suspects = suspects
        self.breaker = breaker or Limits()
        self.tracer = tracer
        self.clock = clock or Clock()
        self.context = copy_context()
        self.grace = grace
        self.handlers: list[Runner] = []
        self.sinks: dict[str, SinkMeasures] = {}
        self.store_measures = StoreMeasures()
        self.started = False
        self.draining = False
        self.on_quiet: Callable[[], None] | None = None
        self.on_letter: Callable[[DeadLetter], None] | None = None
        self.failure: BaseException | None = None
        self.closed = False
        self._hurry = asyncio.Event()
        self._sink = sink
        self._fatal = fatal
        self._threads: ThreadPoolExecutor | None = None
        self._threads_limit = concurrency
        self._handed_back: list[Delivery] = []
        self.holding_time: Callable[[], contextlib.AbstractContextManager[None]] | None = None

    def add(self, handler: Handler, sources: Sequence[Source]) -> Runner:
        """Take on a handler with its sources (opened by the caller)."""
        runner = Runner(handler, self)
        if not runner.transactional and not all(getattr(source, "idempotent", True) for source in sources):
            # The source knows by itself what was finished. Only a transaction needs a mark that commits with its writes.
            runner.outcomes.ledger = None
        runner.subscriptions.extend(Subscription(runner, source) for source in sources)
        self.handlers.append(runner)
        return runner

    def start(self) -> None:
        """Let every subscription fetch."""
        self.started = True
        for runner in self.handlers:
            for subscription in runner.subscriptions:
                subscription.start()

    # What the pipeline asks for

    async def publish(
        self, destination: Any, publications: Sequence[Publication], origins: Sequence[Any] = ()
    ) -> Sequence[Published | Exception]:
        """Publish through a sink, measured and traced; ``origins``: the spans of the attempts that the publications come from,
        where that is not the code that runs now."""
        sink = self._sink(destination)
        measures = self._measured(sink)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if self.tracer is None:
            results = await sink.publish(publications)
        else:
            sending = self.tracer.send(sink.name, publications, origins)
            try:
                results = await sink.publish(sending.publications)
            except BaseException as error:
                sending.end(error)
                raise
            sending.sent(results)
        measures.duration.add(loop.time() - begun, len(publications))
        for result in results:
            if isinstance(result, Published):
                measures.published["duplicate" if result.duplicate else "ok"] += 1
            else:
                measures.published["failed"] += 1
        return results

    def begin(self, sink: Sink, publication: Publication) -> asyncio.Future[Published | Exception] | None:
        """Publish one event at once through an open sink that can do so at this moment; else ``None``."""
        begin = getattr(sink, "begin", None)
        if begin is None or self.tracer is not None:
            return None
        waiting: asyncio.Future[Published | Exception] | None = begin(
            publication, self.sinks.get(sink.name) or self._measured(sink)
        )
        return waiting

    def _measured(self, sink: Sink) -> SinkMeasures:
        measures = self.sinks.get(sink.name)
        if measures is None:
            measures = self.sinks[sink.name] = SinkMeasures(sink.name)
        return measures

    def expired(self, event: Event, delay: float) -> bool:
        """Whether the event's ``expirytime`` is over after so many seconds. One that is no time never expires."""
        value = event._attributes.get("expirytime")
        if value is None:
            return False
        from headrace.cloudevents.types import parse_time

        try:
            time = value if hasattr(value, "timestamp") else parse_time(str(value))
        except InvalidEvent:
            return False
        return bool(time.timestamp() < self.clock.now() + delay)

    def threads(self) -> Executor:
        """The pool of plain ``def`` handlers, as large as the app's concurrency; threads start as they are needed."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._threads_limit, thread_name_prefix="headrace-handler")
        return self._threads

    @contextlib.contextmanager
    def real_time(self) -> Iterator[None]:
        """Around what runs outside the loop: a virtual clock must not jump meanwhile."""
        if self.holding_time is None:
            yield
        else:
            with self.holding_time():
                yield

    async def buried(self, letter: DeadLetter, replay: int) -> None:
        """A dead letter has been stored."""
        if self.on_letter is not None:
            self.on_letter(letter)

    def hand_back(self, delivery: Delivery) -> None:
        """A delivery that will not be finished here: given back when the drain has settled the others."""
        self._handed_back.append(delivery)

    def defect(self, error: BaseException | None) -> None:
        """Something in the runtime itself failed, or a source for good: the app ends, nothing more is acknowledged."""
        if isinstance(error, asyncio.CancelledError) or error is None:
            return
        if self.failure is None:
            self.failure = error
            log.critical("the runtime cannot go on: %s: %s", type(error).__name__, error, exc_info=error)
        self.request_stop(getattr(error, "exit_code", 1))

    def request_stop(self, code: int) -> None:
        """End the app with this exit code."""
        if self._fatal is not None:
            self._fatal(code)

    # Draining

    def hurry(self) -> None:
        """Cut a drain short: what still runs is cancelled now."""
        self._hurry.set()

    async def drain(self, grace: float | None = None) -> bool:
        """Stop fetching, finish what is in flight, settle, flush, hand back, close.

        Returns whether everything in flight was finished within ``grace`` seconds; what was not is cancelled, uncounted,
        and handed back.
        """
        self.draining = True
        loop = asyncio.get_running_loop()
        end = loop.time() + (self.grace if grace is None else grace)
        await asyncio.gather(*(sub.stop() for runner in self.handlers for sub in runner.subscriptions))
        alone = self.slots.solitude.stop()
        unstarted = [delivery for runner in self.handlers for delivery in runner.stop()]
        unstarted.extend(alone)
        quiet = loop.create_task(self._quiet())
        hurry = loop.create_task(self._hurry.wait())
        await asyncio.wait((quiet, hurry), timeout=max(0.0, end - loop.time()), return_when=asyncio.FIRST_COMPLETED)
        complete = quiet.done()
        quiet.cancel()
        hurry.cancel()
        if not complete:
            for runner in self.handlers:
                for delivery in runner.deadlines.running():
                    runner.cancel(delivery, "drain")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._quiet()
        # What failed meanwhile did so before the flush: its count is recorded, its claim goes back.
        for delivery in [*unstarted, *self._handed_back]:
            runner = delivery._runner
            if delivery.voided is None:
                delivery.source.settle(delivery, HAND_BACK)
            runner.outcomes.releases.add(delivery)
            for subscription in runner.subscriptions:
                subscription.let_go((delivery,))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.3, end - loop.time())):
                await asyncio.gather(*(runner.outcomes.join() for runner in self.handlers))
        within = max(1.0, end + CLOSING - loop.time())
        closing = [sub.close(within) for runner in self.handlers for sub in runner.subscriptions]
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, BaseException):
                log.warning("a source did not close cleanly: %s: %s", type(result).__name__, result)
        await asyncio.gather(*(runner.close() for runner in self.handlers))
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self.closed = True
        return complete

    async def _quiet(self) -> None:
        """Wait until no attempt runs and every stage is empty."""
        while True:
            await asyncio.gather(*(runner.outcomes.join() for runner in self.handlers))
            if not any(runner.inflight for runner in self.handlers):
                await asyncio.gather(*(runner.outcomes.join() for runner in self.handlers))
                return
            await asyncio.sleep(0.01)
