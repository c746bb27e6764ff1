"""Attempts that did not succeed, and events that cannot be attempted: retried, dead-lettered, dropped, or handed back.

What decides is the exception, then the handler's `Retry` policy. A retry is recorded in the ledger before its lane is parked or
its delivery released; a dead letter is stored and confirmed before its delivery goes on to be marked and settled.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from headrace.engine.claims import LOOK_AGAIN
from headrace.engine.delivery import DEAD, DROP, Delivery, Outcome
from headrace.engine.failpoints import passing
from headrace.engine.ledger import AttemptError, Attempts
from headrace.engine.letters import compose, replay_number
from headrace.engine.stage import Stage
from headrace.engine.transactional import ClaimLost
from headrace.errors import Drop, InvalidEvent, PublishFailed, Reject, RetryAfter, StoreUnavailable, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.engine.dead_letters import DeadLetter
    from headrace.engine.outcomes import Outcomes

__all__ = ["Failures"]

log = logging.getLogger("headrace.engine")

#: Errors kept in an event's history.
HISTORY = 20


class Failures:
    """Of one handler."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._runner = outcomes.runner
        self._handler = outcomes.handler
        self._measures = outcomes.measures
        self._loop = asyncio.get_running_loop()
        self._parked = passing("parked")
        self._deadlettered = passing("deadlettered")
        defect = outcomes.runner.runtime.defect
        self.retries: Stage[tuple[Delivery, float]] = Stage(self._retry, defect)
        self.letters: Stage[tuple[Delivery, BaseException]] = Stage(self._bury, defect)

    def failed(self, delivery: Delivery, error: BaseException | None) -> None:
        """The attempt failed, was cancelled by the engine, or ran out of time."""
        why, delivery._cancel = delivery._cancel, None
        self._outcomes.attempt_ended(delivery)
        if delivery.voided is not None:
            self._outcomes.voided(delivery)
            return
        if why == "drain":
            delivery.attempt -= 1
            self._measures.outcomes["cancelled"] += 1
            self._runner.runtime.hand_back(delivery)
            self._runner.free_lane(delivery)
            return
        if why == "timeout":
            error = TimeoutError(f"the handler ran longer than its timeout of {self._handler.timeout:g} s")
            self._measures.outcomes["timeout"] += 1
        assert error is not None
        if isinstance(error, StoreUnavailable) and self._runner.transactional:
            self._await_store(delivery, error)
            return
        if isinstance(error, Drop):
            self._drop(delivery, error)
            return
        self._measures.exception(error)
        self._remember(delivery, error)
        if delivery.answers:
            self._tell(delivery, error)
            self._refuse(delivery, error)
            return
        retry = self._handler.retry
        if isinstance(error, Reject) or not isinstance(error, (*retry.on, RetryAfter)):
            self._dead(delivery, error)
            return
        delay = error.seconds if isinstance(error, RetryAfter) else _asked(error)
        if not isinstance(error, RetryAfter) and self._runner.breaker.failed(delivery, error):
            return
        if delay is None:
            delay = retry.backoff.delay(delivery.attempt)
        if delivery.attempt >= retry.attempts or self._over_budget(delivery, delay) or self._expires(delivery, delay):
            self.exhausted(delivery, error)
            return
        self._measures.outcomes["retry"] += 1
        log.info(
            "handler %s: attempt %d of %d failed, next in %.1f s: %s: %s",
            self._handler.name,
            delivery.attempt,
            retry.attempts,
            delay,
            type(error).__name__,
            words(error),
            extra=_facts(self._handler.name, delivery),
        )
        self._outcomes.waiting_lanes[delivery] = None
        self.retries.add((delivery, self._loop.time() + delay))

    def _await_store(self, delivery: Delivery, error: StoreUnavailable) -> None:
        """The store of a transactional handler did not answer: no attempt was made, it comes again."""
        if delivery.answers:
            self._refuse(delivery, error)
            return
        delivery.attempt -= 1
        lost = isinstance(error, ClaimLost)
        if lost:
            self._measures.fenced += 1
            log.warning("handler %s: %s", self._handler.name, error)
        else:
            self._outcomes.waits_for_store(error)
        if self._runner.stopping:
            self._runner.runtime.hand_back(delivery)
            self._runner.free_lane(delivery)
        elif lost:
            # Whoever has the claim finishes it, or it is free again: asked at the head of its lane, as any that waits.
            delivery._claim = "busy"
            self._outcomes.claims.admit(delivery)
        else:
            self._runner.park(delivery, self._loop.time() + LOOK_AGAIN)

    def _drop(self, delivery: Delivery, error: BaseException) -> None:
        log.warning(
            "handler %s: event dropped: %s",
            self._handler.name,
            words(error),
            extra=_facts(self._handler.name, delivery),
        )
        self._measures.outcomes["dropped"] += 1
        delivery._outcome = DROP
        self._outcomes.complete(delivery)

    def _remember(self, delivery: Delivery, error: BaseException) -> None:
        now = self._runner.runtime.clock.now()
        history = delivery._history
        entry = AttemptError(now, type(error).__name__, words(error)[:500])
        if history is None:
            delivery._history = Attempts(delivery.attempt, now, (entry,))
        else:
            delivery._history = Attempts(delivery.attempt, history.first, (*history.errors[1 - HISTORY :], entry))

    def _over_budget(self, delivery: Delivery, delay: float) -> bool:
        budget = self._handler.retry.budget
        if budget is None or delivery._history is None:
            return False
        return self._runner.runtime.clock.now() + delay > delivery._history.first + budget

    def _expires(self, delivery: Delivery, delay: float) -> bool:
        event = delivery.event
        return event is not None and self._runner.runtime.expired(event, delay)

    def exhausted(self, delivery: Delivery, error: BaseException) -> None:
        """No attempt is left: what the policy says happens now."""
        end = self._handler.retry.on_exhausted
        if end == "drop":
            self._drop(delivery, error)
        elif end == "stop":
            log.error(
                "handler %s: attempts exhausted and on_exhausted is stop: %s: %s",
                self._handler.name,
                type(error).__name__,
                words(error),
                extra=_facts(self._handler.name, delivery),
            )
            self._runner.runtime.hand_back(delivery)
            self._runner.free_lane(delivery)
            self._runner.runtime.request_stop(1)
        else:
            self._dead(delivery, error)

    def _refuse(self, delivery: Delivery, error: BaseException) -> None:
        """A sender waits: it hears of the failure now, and nothing is kept."""
        if isinstance(error, (Reject, InvalidEvent)):
            outcome = Outcome("dead", error=error)
            self._measures.outcomes["dead"] += 1
        else:
            delay = error.seconds if isinstance(error, RetryAfter) else self._handler.retry.backoff.delay(1)
            outcome = Outcome("retry", delay=delay, error=error)
            self._measures.outcomes["retry"] += 1
        self._runner.free_lane(delivery)
        delivery._history = None
        self._outcomes.releases.add(delivery)
        self._outcomes.unmarked(delivery, outcome)

    def _tell(self, delivery: Delivery, error: BaseException) -> None:
        """Log a failure of which the sender hears only the kind, and no letter tells. What a handler raised to be answered
        is no failure of its own."""
        meant = isinstance(error, (Reject, RetryAfter))
        log.log(
            logging.INFO if meant else logging.ERROR,
            "handler %s: attempt failed, its sender is told: %s: %s",
            self._handler.name,
            type(error).__name__,
            words(error),
            extra=_facts(self._handler.name, delivery),
            exc_info=None if meant else error,
        )

    def _dead(self, delivery: Delivery, error: BaseException) -> None:
        self._outcomes.waiting_lanes[delivery] = None
        self.letters.add((delivery, error))

    def unusable(self, delivery: Delivery) -> None:
        """Undecodable bytes, data of the wrong type, no key: dead-lettered before any lane."""
        assert delivery.error is not None
        delivery._lane = None
        if delivery.answers:
            self._measures.outcomes["dead"] += 1
            self._outcomes.unmarked(delivery, Outcome("dead", error=delivery.error))
        else:
            self.letters.add((delivery, delivery.error))

    # Stages

    async def _retry(self, batch: list[tuple[Delivery, float]]) -> None:
        ledger = self._outcomes.ledger
        if ledger is not None:
            attempts: list[Any] = [(delivery._identity, delivery._history) for delivery, _ in batch]
            await self._outcomes.stored("record", lambda: ledger.record(self._handler.name, attempts))
        else:
            await self._record_at_source([delivery for delivery, _ in batch])
        if self._parked is not None:
            self._parked(len(batch))
        for delivery, due in batch:
            self._outcomes.waiting_lanes.pop(delivery, None)
            if delivery.voided is not None:
                self._outcomes.voided(delivery)
            elif self._runner.stopping:
                self._runner.runtime.hand_back(delivery)
            elif self._runner.breaker.open:
                self._runner.ready.append(delivery)
                self._runner.breaker.joined()
            elif self._handler.order == "release" and ledger is not None and not delivery.source.keeps_order:
                delay = max(0.0, due - self._loop.time())
                self._outcomes.releases.add(delivery)
                self._runner.free_lane(delivery)
                self._outcomes.unmarked(delivery, Outcome("retry", delay=delay))
            else:
                # A lane that the source gave by default (a record key) is held too, unless the user released it.
                if self._handler.retry.order == "release":
                    self._runner.free_lane(delivery)
                    delivery._lane = None
                self._runner.park(delivery, due)

    async def _record_at_source(self, batch: list[Delivery]) -> None:
        """Without the ledger: a source that knows what was finished knows what has failed as well."""
        for source in dict.fromkeys(delivery.source for delivery in batch):
            record = getattr(source, "record", None)
            if record is not None:
                mine = [delivery for delivery in batch if delivery.source is source and delivery.voided is None]
                await self._outcomes.stored("record", partial(record, mine))

    async def _bury(self, batch: list[tuple[Delivery, BaseException]]) -> None:
        runtime = self._runner.runtime
        now = runtime.clock.now()
        letters = [compose(self._handler, delivery, error, now=now) for delivery, error in batch]
        stored = await self._put(letters)
        if not any(stored):
            self._outcomes.letter_trouble = ""
        if self._deadlettered is not None:
            self._deadlettered(len(batch))
        for (delivery, error), letter, failure in zip(batch, letters, stored, strict=True):
            if failure is not None:
                trouble = f"handler {self._handler.name!r}: dead letter {letter.id} cannot be stored: {words(failure)}"
                self._outcomes.letter_trouble = trouble
                log.error("%s; it stays unsettled and is tried again", trouble, extra=_facts(letter.handler, delivery))
                self._loop.call_later(5.0, self.letters.add, (delivery, error))
                continue
            log.error(
                "handler %s: dead letter %s after %d attempts: %s",
                self._handler.name,
                letter.id,
                delivery.attempt,
                letter.reason,
                extra={"event_id": letter.event_id, **_facts(letter.handler, delivery)},
            )
            if letter.replay:
                self._measures.replayed["dead"] += 1
            self._measures.outcomes["dead"] += 1
            delivery._outcome = DEAD
            if delivery in self._outcomes.waiting_lanes:
                self._outcomes.complete(delivery)
            elif delivery._identity is None:
                self._outcomes.unmarked(delivery, DEAD)
            else:
                self._outcomes.settle.add(delivery)
            await runtime.buried(letter, replay_number(delivery))

    async def _put(self, letters: list[DeadLetter]) -> Sequence[Exception | None]:
        """Store them. What a store raises because of what one letter holds is that letter's trouble alone; an outage is
        waited for, and a store that is ours no more ends the app."""
        try:
            return await self._outcomes.stored("dead_letter", lambda: self._runner.runtime.dead_letters.put(letters))
        except (ValueError, TypeError, OverflowError, PublishFailed) as error:
            if len(letters) == 1:
                return [error]
            return [(await self._put([letter]))[0] for letter in letters]


def _facts(handler: str, delivery: Delivery) -> dict[str, str]:
    """What a log line says of a delivery, as fields."""
    event = delivery.event
    if event is None:
        return {"handler": handler}
    facts = {"handler": handler, "event_id": event.id, "event_source": event.source, "event_type": event.type}
    trace = str(event._attributes.get("traceparent", "")).split("-")
    return facts | {"trace_id": trace[1]} if len(trace) == 4 else facts


def _asked(error: BaseException) -> float | None:
    """The seconds that an HTTP 429 or 503 answer asked for, where the error carries them as ``retry_after``."""
    seconds = getattr(error, "retry_after", None)
    return float(seconds) if isinstance(seconds, (int, float)) and seconds >= 0 else None
