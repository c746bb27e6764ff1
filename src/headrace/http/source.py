"""The source behind a receiver in sync mode: requests wait in a bounded queue, and `settle` is their answer.

It promises that a sender gets 2xx only after its event is settled; that no more deliveries wait here than the handler
has places for (then 429); that a request which nobody fetches is answered 503 after the handler's timeout instead of
hanging; and that a client who goes away voids its delivery.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from headrace.engine.delivery import HAND_BACK, Outcome
from headrace.engine.source import Progress
from headrace.http.answers import NO_CONTENT, Answer, Refused, batch_answer, outcome_answer, problem
from headrace.http.body import Gone
from headrace.http.delivery import Batch, HttpDelivery
from headrace.http.grants import Grants
from headrace.http.measures import RequestMeasures
from headrace.http.request import Headers, Lifeline, Receive, Scope, Send, exchange

if TYPE_CHECKING:
    from headrace.engine.broker import Binding
    from headrace.engine.delivery import Delivery
    from headrace.engine.source import Credit
    from headrace.event import Event
    from headrace.http.receiver import Receiver

__all__ = ["HttpSource"]

T = TypeVar("T")
log = logging.getLogger("headrace.http")

#: Seconds until a sender that was told 429 should come back.
FULL_RETRY_AFTER: Final = 1.0
#: What a header costs in memory beside its text, roughly; exact enough for a credit in bytes.
HEADER_BYTES: Final = 100
#: The handler had no place for it in all the time that an attempt may take.
NOT_FETCHED: Final = Outcome("retry", delay=1.0)


class HttpSource:
    """Implements `headrace.engine.source.Source` for one receiver and one handler."""

    #: Its senders wait for the outcome of the one attempt.
    answers = True
    keeps_order = False
    extend_every: float | None = None

    def __init__(self, receiver: Receiver, binding: Binding) -> None:
        self.receiver = receiver
        self.name = receiver.name
        self.path = receiver.path
        self.methods = frozenset(method.encode() for method in receiver.methods)
        self.requests = RequestMeasures()
        self.grants = Grants(receiver)
        self._places = binding.concurrency + binding.prefetch.items
        self._bytes = binding.prefetch.bytes
        self._patience = binding.timeout
        self._waiting: deque[HttpDelivery] = deque()
        self._count = 0
        self._size = 0
        self._fetcher: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._accepting = False
        self._last = 0.0

    # The engine's side.

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._accepting = True

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        while True:
            if taken := self._take(credit):
                return taken
            if not self._accepting:
                return []
            self._fetcher = self._loop.create_future()
            try:
                await self._fetcher
            finally:
                self._fetcher = None

    def _take(self, credit: Credit) -> list[Delivery]:
        waiting = self._waiting
        items, size = credit.items, credit.bytes
        taken: list[Delivery] = []
        while waiting and items > 0:
            delivery = waiting[0]
            if delivery.voided is None:
                if delivery.size > size and (taken or delivery.size <= credit.bytes):
                    break
                items -= 1
                size -= delivery.size
                taken.append(delivery)
            waiting.popleft()
        if taken:
            self._last = time.monotonic()
        if waiting and self._timer is None:
            self._watch_waiting()
        return taken

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        assert isinstance(delivery, HttpDelivery)
        if not delivery.counted:
            return
        delivery.counted = False
        self._count -= 1
        self._size -= delivery.size
        answered, batch = delivery.answered, delivery.batch
        if batch is not None:
            outcomes = batch.settle(delivery.index, outcome)
            if outcomes is not None and batch.answered is not None:
                batch.answered(_composed(batch_answer, outcomes))
        elif answered is not None:
            if outcome.kind == "ack" and outcome.result is None:
                answered(NO_CONTENT)
            else:
                answered(_composed(outcome_answer, outcome))

    async def flush(self) -> Sequence[Delivery]:
        return ()

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        return None

    def drain(self) -> None:
        """Take no further request; what was never fetched is answered 503 at once."""
        self._accepting = False
        while self._waiting:
            delivery = self._waiting.popleft()
            if delivery.voided is None:
                self.settle(delivery, HAND_BACK)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()

    async def close(self) -> None:
        self.drain()
        await self.grants.close()

    def progress(self) -> Progress:
        return Progress(connected=self._accepting, lag_events=len(self._waiting), last_progress=self._last)

    # The request's side.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request to this path (ASGI 3)."""
        await exchange(self, scope, receive, send)

    async def answer(self, lifeline: Lifeline, headers: Headers, body: bytes, events: Sequence[Event]) -> Answer:
        """Hand the events over and wait until all are settled. Raises `Refused` where there is no place, `Gone`."""
        future: asyncio.Future[Answer] = self._loop.create_future()

        def answered(answer: Answer) -> None:
            if not future.done():
                future.set_result(answer)

        def gone() -> None:
            if not future.done():
                future.set_exception(Gone())

        deliveries = self.submit(headers, body, events, answered)
        lifeline.watch(gone)
        try:
            return await future
        except (Gone, asyncio.CancelledError):
            self.abandon(deliveries)
            raise
        finally:
            lifeline.release()

    def submit(
        self, headers: Headers, body: bytes, events: Sequence[Event], answered: Callable[[Answer], None]
    ) -> Sequence[HttpDelivery]:
        """Put the events in the queue; ``answered`` is called once when all of them are settled, perhaps at once.

        Raises `Refused`: 503 while stopping, 429 where the handler has no place for them.
        """
        if not self._accepting:
            raise Refused(503, "the receiver is stopping; send the event again", retry_after=1)
        count = len(events)
        size = len(body) + HEADER_BYTES * len(headers)
        if self._count and (self._count + count > self._places or self._size + size > self._bytes):
            raise Refused(
                429, "the receiver holds as much as it may; send the event again", retry_after=FULL_RETRY_AFTER
            )
        now = self._loop.time()
        if count == 1:
            delivery = HttpDelivery(self, events[0], size, headers, body, now, answered)
            self._count += 1
            self._size += size
            self._waiting.append(delivery)
            self._wake()
            return (delivery,)
        if not count:
            answered(NO_CONTENT)
            return ()
        batch = Batch(count, answered)
        share = size // count + 1
        deliveries = []
        for index, event in enumerate(events):
            delivery = HttpDelivery(self, event, share, headers, body, now, None)
            delivery.batch = batch
            delivery.index = index
            deliveries.append(delivery)
        self._count += count
        self._size += share * count
        self._waiting.extend(deliveries)
        self._wake()
        return deliveries

    def abandon(self, deliveries: Sequence[HttpDelivery]) -> None:
        """The client closed its request: void what is not settled yet and give its places back."""
        for delivery in deliveries:
            if delivery.batch is not None:
                delivery.batch.answered = None
            if delivery.counted:
                delivery.counted = False
                self._count -= 1
                self._size -= delivery.size
                delivery.void("the client closed its request")

    def _wake(self) -> None:
        fetcher = self._fetcher
        if fetcher is not None:
            if not fetcher.done():
                fetcher.set_result(None)
        elif self._timer is None and self._waiting:
            self._watch_waiting()

    def _watch_waiting(self) -> None:
        """Nobody fetches what waits: have a look when the oldest has waited for as long as an attempt may take."""
        due = self._waiting[0].since + self._patience
        self._timer = self._loop.call_at(due, self._lose_patience)

    def _lose_patience(self) -> None:
        self._timer = None
        waiting = self._waiting
        late = self._loop.time() - self._patience
        while waiting and (waiting[0].voided is not None or waiting[0].since <= late):
            delivery = waiting.popleft()
            if delivery.voided is None:
                self.settle(delivery, NOT_FETCHED)
        if waiting:
            self._watch_waiting()


def _composed(compose: Callable[[T], Answer], settled: T) -> Answer:
    """An answer, whatever happens: `settle` never raises. A returned event that cannot be written is our own
    failure."""
    try:
        return compose(settled)
    except Exception:
        log.exception("the answer to a request could not be written; the sender was told 500")
        return problem(500, "the event was handled, but its answer could not be written")
