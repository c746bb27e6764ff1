"""What becomes of a delivery after its attempt: outputs, retry, dead letter, mark, settlement.

The order is the promise: outputs are confirmed before the mark, the mark is in the ledger before the source is told, and
a dead letter is stored before its delivery is marked and settled. Each step is a `Stage`: one round trip for many events.
A lane is freed when outputs are confirmed (or the dead letter is stored); marks and settles follow in that order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.engine.delivery import ACK, DEAD, DROP, Delivery, Outcome
from headrace.engine.failpoints import passing
from headrace.engine.ledger import AttemptError, Attempts, Claim, Identity
from headrace.engine.letters import compose, replay_number
from headrace.engine.outputs import Outputs
from headrace.engine.refusals import Refusals
from headrace.engine.stage import Stage
from headrace.engine.transactional import FENCED, Committed
from headrace.errors import Drop, HeadraceError, InvalidEvent, Reject, RetryAfter, StoreUnavailable

if TYPE_CHECKING:
    from headrace.engine.runner import Runner

__all__ = ["Outcomes"]

T = TypeVar("T")
log = logging.getLogger("headrace.engine")

#: Seconds between looks at an event that another process has claimed.
CONTENDED = 0.5
#: Errors kept in an event's history.
HISTORY = 20
_STATES = {"dead": "dead", "drop": "dropped"}


class Outcomes:
    """The stages behind the lanes of one handler. ``trouble`` is one sentence while a store or sink makes it wait."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        handler = runner.handler
        self.handler = handler
        self.measures = runner.measures
        self.trouble = ""
        runtime = runner.runtime
        self.ledger = runtime.ledger if handler.idempotent else None
        self.outputs = Outputs(self)
        defect = runtime.defect
        self.settle: Stage[Delivery] = Stage(self._settle, defect)
        self.retries: Stage[tuple[Delivery, float]] = Stage(self._retry, defect)
        self.letters: Stage[tuple[Delivery, BaseException]] = Stage(self._bury, defect)
        self.publications: Stage[tuple[Delivery, Any]] = Stage(self.outputs.process, defect, parallel=4)
        self.releases: Stage[Delivery] = Stage(self._release, defect)
        self.claims: Stage[Delivery] = Stage(self._reclaim, defect)
        self.refusals = Refusals(self)
        self.corrections: Stage[tuple[Identity, Attempts]] = Stage(self._correct, defect)
        self._contended: dict[Delivery, asyncio.TimerHandle] = {}
        self._waiting_lanes: dict[Delivery, None] = {}
        self._loop = asyncio.get_running_loop()
        self._marked = passing("marked")
        self._settled = passing("settled")
        self._deadlettered = passing("deadlettered")
        self._parked = passing("parked")

    # Before an attempt

    async def claim(self, identities: Sequence[Identity]) -> Sequence[Claim]:
        """Claim a batch; waits through outages of the ledger."""
        ledger = self.ledger
        assert ledger is not None
        asked = 0

        async def ask() -> Sequence[Claim]:
            nonlocal asked
            asked += 1
            return await ledger.claim(self.handler.name, identities)

        claims = await self.stored("claim", ask)
        return claims if asked == 1 else self.refusals.untangled(identities, claims)

    def admit(self, delivery: Delivery) -> bool:
        """A head with a hurdle: ``True`` where the attempt may start now."""
        if delivery._claim == "void":
            self.voided(delivery)
            return False
        if delivery._claim == "suspect":
            assert self.runner.suspicion is not None
            self.runner.suspicion.starts.add(delivery)
            return False
        # Claimed elsewhere, or a duplicate of one in progress here: it waits at the head of its lane.
        self._contended[delivery] = self._loop.call_later(CONTENDED, self.claims.add, delivery)
        return False

    def take_contended(self) -> list[Delivery]:
        """For the drain: the heads that wait for another's claim."""
        for timer in self._contended.values():
            timer.cancel()
        taken = list(self._contended)
        self._contended.clear()
        return taken

    def void_contended(self, delivery: Delivery) -> bool:
        """A delivery was lost by its source: ``True`` if it was one that waits for another's claim, which is none of its own."""
        timer = self._contended.pop(delivery, None)
        if timer is None:
            return False
        timer.cancel()
        self._abandon(delivery)
        return True

    def _abandon(self, delivery: Delivery) -> None:
        self.measures.outcomes["cancelled"] += 1
        self.runner.free_lane(delivery)
        self._let_go(delivery)

    def holding(self) -> list[Delivery]:
        """Heads whose attempt has ended and whose lane still waits for a confirmation."""
        return list(self._waiting_lanes)

    async def _reclaim(self, batch: list[Delivery]) -> None:
        batch = [delivery for delivery in batch if self._contended.pop(delivery, None) is not None]
        identities = [delivery._identity for delivery in batch if delivery._identity is not None]
        if not batch:
            return
        for delivery, claim in zip(batch, await self.claim(identities), strict=True):
            if delivery.voided is not None:
                if claim.state == "claimed":
                    self.voided(delivery)
                else:
                    self._abandon(delivery)
                continue
            if self.runner.stopping:
                self._contended[delivery] = self._loop.call_later(CONTENDED, self.claims.add, delivery)
                continue
            self.take_claim(delivery, claim)
            if delivery._claim is None or delivery._claim == "suspect":
                self.runner.ready.append(delivery)
            elif delivery._claim == "finished":
                self.duplicate(delivery)
                self.runner.free_lane(delivery)
            else:
                self._contended[delivery] = self._loop.call_later(CONTENDED, self.claims.add, delivery)
        if self.runner.ready:
            self.runner.wake()

    def take_claim(self, delivery: Delivery, claim: Claim) -> None:
        """Write a claim's answer into its delivery: ``_claim`` None (go), ``finished``, ``ours`` or ``busy``."""
        state, attempts = claim
        if state == "claimed":
            delivery._claim = None
            if attempts is not None:
                delivery._history = attempts
                delivery.attempt = attempts.count
            suspicion = self.runner.suspicion
            if suspicion is not None and suspicion.is_suspect(delivery, delivery._identity or ("", "")):
                delivery._claim = "suspect"
            self.measures.lookups["fresh"] += 1
        elif state in ("ours", "busy"):
            delivery._claim = state
            self.measures.lookups["busy"] += 1
        else:
            delivery._claim = "finished"
            self.measures.lookups["duplicate"] += 1

    def duplicate(self, delivery: Delivery) -> None:
        """A finished event came again."""
        self.measures.outcomes["duplicate"] += 1
        self.unmarked(delivery, ACK)

    # After an attempt

    def returned(self, delivery: Delivery, result: Any) -> None:
        """The handler returned a value."""
        if delivery.voided is not None:
            self.voided(delivery)
        elif self.handler.publishes is not None:
            self._waiting_lanes[delivery] = None
            self.publications.add((delivery, result))
        else:
            if delivery.answers:
                try:
                    delivery._outcome = Outcome("ack", result=self.outputs.answer(delivery, result))
                except HeadraceError as error:
                    self.failed(delivery, error, 0.0)
                    return
            self.complete(delivery)

    def complete(self, delivery: Delivery) -> None:
        """Handled, outputs confirmed: on to mark and settlement; the lane is free."""
        self._waiting_lanes.pop(delivery, None)
        self.settle.add(delivery)
        self.runner.free_lane(delivery)

    def voided(self, delivery: Delivery) -> None:
        """Lost by its source: nothing of it counts; the claim goes back."""
        self._waiting_lanes.pop(delivery, None)
        self._attempt_ended(delivery)
        self.measures.outcomes["cancelled"] += 1
        self.runner.free_lane(delivery)
        self._let_go(delivery)
        self.releases.add(delivery)

    def failed(self, delivery: Delivery, error: BaseException | None, started: float) -> None:
        """The attempt failed, was cancelled by the engine, or ran out of time."""
        why, delivery._cancel = delivery._cancel, None
        self._attempt_ended(delivery)
        if delivery.voided is not None:
            self.voided(delivery)
            return
        if why == "drain":
            delivery.attempt -= 1
            self.measures.outcomes["cancelled"] += 1
            self.runner.runtime.hand_back(delivery)
            self.runner.free_lane(delivery)
            return
        if why == "timeout":
            error = TimeoutError(f"the handler ran longer than its timeout of {self.handler.timeout:g} s")
            self.measures.outcomes["timeout"] += 1
        assert error is not None
        if isinstance(error, StoreUnavailable) and self.handler.signature.transaction is not None:
            self._await_store(delivery, error)
            return
        if isinstance(error, Drop):
            self._drop(delivery, error)
            return
        self.measures.exception(error)
        self._remember(delivery, error)
        if delivery.answers:
            self._refuse(delivery, error)
            return
        retry = self.handler.retry
        if isinstance(error, Reject) or not isinstance(error, (*retry.on, RetryAfter)):
            self._dead(delivery, error)
            return
        delay = error.seconds if isinstance(error, RetryAfter) else _asked(error)
        if not isinstance(error, RetryAfter) and self.runner.breaker.failed(delivery, error):
            return
        if delay is None:
            delay = retry.backoff.delay(delivery.attempt)
        if delivery.attempt >= retry.attempts or self._over_budget(delivery, delay) or self._expires(delivery, delay):
            self.exhausted(delivery, error)
            return
        self.measures.outcomes["retry"] += 1
        log.info(
            "handler %s: attempt %d of %d failed, next in %.1f s: %s: %s",
            self.handler.name,
            delivery.attempt,
            retry.attempts,
            delay,
            type(error).__name__,
            error,
            extra={"event_id": delivery.event.id if delivery.event else None},
        )
        self._waiting_lanes[delivery] = None
        self.retries.add((delivery, self._loop.time() + delay))

    def _await_store(self, delivery: Delivery, error: StoreUnavailable) -> None:
        """The store of a transactional handler did not answer: no attempt was made, it comes again."""
        if delivery.answers:
            self._refuse(delivery, error)
            return
        delivery.attempt -= 1
        self.trouble = f"handler {self.handler.name!r} waits for the store: {error}"
        if self.runner.stopping:
            self.runner.runtime.hand_back(delivery)
            self.runner.free_lane(delivery)
        else:
            self.runner.park(delivery, self._loop.time() + CONTENDED)

    def _drop(self, delivery: Delivery, error: BaseException) -> None:
        log.warning("handler %s: event dropped: %s", self.handler.name, error)
        self.measures.outcomes["dropped"] += 1
        delivery._outcome = DROP
        self.complete(delivery)

    def _remember(self, delivery: Delivery, error: BaseException) -> None:
        now = self.runner.runtime.clock.now()
        history = delivery._history
        entry = AttemptError(now, type(error).__name__, str(error)[:500])
        if history is None:
            delivery._history = Attempts(delivery.attempt, now, (entry,))
        else:
            delivery._history = Attempts(delivery.attempt, history.first, (*history.errors[1 - HISTORY :], entry))

    def _over_budget(self, delivery: Delivery, delay: float) -> bool:
        budget = self.handler.retry.budget
        if budget is None or delivery._history is None:
            return False
        return self.runner.runtime.clock.now() + delay > delivery._history.first + budget

    def _expires(self, delivery: Delivery, delay: float) -> bool:
        event = delivery.event
        return event is not None and self.runner.runtime.expired(event, delay)

    def _attempt_ended(self, delivery: Delivery) -> None:
        """The process lives, whatever becomes of the event."""
        if self.runner.suspicion is not None:
            self.runner.suspicion.ended(delivery)
        self.runner.breaker.ended(delivery)

    def exhausted(self, delivery: Delivery, error: BaseException) -> None:
        """No attempt is left: what the policy says happens now."""
        end = self.handler.retry.on_exhausted
        if end == "drop":
            self._drop(delivery, error)
        elif end == "stop":
            log.error(
                "handler %s: attempts exhausted and on_exhausted is stop: %s: %s",
                self.handler.name,
                type(error).__name__,
                error,
            )
            self.runner.runtime.hand_back(delivery)
            self.runner.free_lane(delivery)
            self.runner.runtime.request_stop(1)
        else:
            self._dead(delivery, error)

    def _refuse(self, delivery: Delivery, error: BaseException) -> None:
        """A sender waits: it hears of the failure now, and nothing is kept."""
        if isinstance(error, (Reject, InvalidEvent)):
            outcome = Outcome("dead", error=error)
            self.measures.outcomes["dead"] += 1
        else:
            delay = error.seconds if isinstance(error, RetryAfter) else self.handler.retry.backoff.delay(1)
            outcome = Outcome("retry", delay=delay, error=error)
            self.measures.outcomes["retry"] += 1
        self.runner.free_lane(delivery)
        delivery._history = None
        self.releases.add(delivery)
        self.unmarked(delivery, outcome)

    def _dead(self, delivery: Delivery, error: BaseException) -> None:
        self._waiting_lanes[delivery] = None
        self.letters.add((delivery, error))

    def unusable(self, delivery: Delivery) -> None:
        """Undecodable bytes, data of the wrong type, no key: dead-lettered before any lane."""
        assert delivery.error is not None
        delivery._lane = None
        if delivery.answers:
            self.measures.outcomes["dead"] += 1
            self.unmarked(delivery, Outcome("dead", error=delivery.error))
        else:
            self.letters.add((delivery, delivery.error))

    # Stages

    async def _settle(self, batch: list[Delivery]) -> None:
        handled = self.measures.outcomes["ok"]
        done = [delivery for delivery in batch if delivery._outcome is None]
        good = done
        refused: list[Delivery] = []
        if self.ledger is not None:
            good = await self._mark(done, "done", refused)
        settled = len(good)
        for delivery in good:
            delivery.source.settle(delivery, ACK)
        self.measures.outcomes["ok"] += settled
        if len(done) != len(batch):
            for delivery in batch:
                outcome = delivery._outcome
                if outcome is None:
                    continue
                if outcome is FENCED:
                    self.measures.fenced += 1
                    log.warning("handler %s: a transaction was refused, its claim was lost", self.handler.name)
                    continue
                if isinstance(outcome, Committed):
                    outcome = ACK if outcome.result is None else outcome
                elif self.ledger is not None and delivery._identity is not None:
                    state = _STATES.get(outcome.kind, "done")
                    if not await self._mark([delivery], state, refused):
                        continue
                if outcome.kind == "ack":
                    self.measures.outcomes["ok"] += 1
                delivery.source.settle(delivery, outcome)
                settled += 1
        suspicion, breaker = self.runner.suspicion, self.runner.breaker
        if breaker.open or breaker.row:
            if self.measures.outcomes["ok"] > handled:
                breaker.succeeded()
            for delivery in batch:
                breaker.ended(delivery)
        if suspicion is not None and suspicion.under_watch:
            for delivery in batch:
                suspicion.ended(delivery)
        if self._settled is not None:
            self._settled(settled)
        for delivery in batch:
            if delivery.voided is not None:
                self.releases.add(delivery)
        if refused:
            self.refusals.add(refused)
            batch = [delivery for delivery in batch if delivery not in refused]
        for subscription in self.runner.subscriptions:
            subscription.let_go(batch)
        self.runner.released(len(batch), sum([delivery.size for delivery in batch]))
        if self._contended:
            for delivery, timer in self._contended.items():
                if delivery._claim == "ours":
                    timer.cancel()
                    self.claims.add(delivery)

    async def _mark(self, batch: list[Delivery], state: str, refused: list[Delivery]) -> list[Delivery]:
        """Mark those that are still ours; returns what may be settled, and adds to ``refused`` what the ledger refused."""
        ledger = self.ledger
        assert ledger is not None
        batch = [delivery for delivery in batch if delivery.voided is None]
        if not batch:
            return batch
        identities: list[Any] = [delivery._identity for delivery in batch]
        marks = await self.stored("mark", lambda: ledger.mark(self.handler.name, identities, state))
        if self._marked is not None:
            self._marked(len(batch))
        if all(marks):
            return batch
        self.measures.fenced += marks.count(False) if isinstance(marks, list) else len(marks) - sum(marks)
        log.warning(
            "handler %s: %d completions refused, their claims were lost", self.handler.name, len(marks) - sum(marks)
        )
        refused.extend(delivery for delivery, mark in zip(batch, marks, strict=True) if not mark)
        return [delivery for delivery, mark in zip(batch, marks, strict=True) if mark]

    async def _retry(self, batch: list[tuple[Delivery, float]]) -> None:
        ledger = self.ledger
        if ledger is not None:
            attempts: list[Any] = [(delivery._identity, delivery._history) for delivery, _ in batch]
            await self.stored("record", lambda: ledger.record(self.handler.name, attempts))
        if self._parked is not None:
            self._parked(len(batch))
        for delivery, due in batch:
            self._waiting_lanes.pop(delivery, None)
            if delivery.voided is not None:
                self.voided(delivery)
            elif self.runner.stopping:
                self.runner.runtime.hand_back(delivery)
            elif self.runner.breaker.open:
                self.runner.ready.append(delivery)
                self.runner.breaker.joined()
            elif self.handler.order == "release" and ledger is not None and not delivery.source.keeps_order:
                delay = max(0.0, due - self._loop.time())
                self.releases.add(delivery)
                self.runner.free_lane(delivery)
                self.unmarked(delivery, Outcome("retry", delay=delay))
            else:
                # A lane that the source gave by default (a record key) is held too, unless the user released it.
                if self.handler.retry.order == "release":
                    self.runner.free_lane(delivery)
                    delivery._lane = None
                self.runner.park(delivery, due)

    async def _bury(self, batch: list[tuple[Delivery, BaseException]]) -> None:
        runtime = self.runner.runtime
        now = runtime.clock.now()
        letters = [compose(self.handler, delivery, error, now=now) for delivery, error in batch]
        stored = await self.stored("dead_letter", lambda: runtime.dead_letters.put(letters))
        if self._deadlettered is not None:
            self._deadlettered(len(batch))
        for (delivery, error), letter, failure in zip(batch, letters, stored, strict=True):
            if failure is not None:
                self.trouble = f"handler {self.handler.name!r}: dead letter {letter.id} cannot be stored: {failure}"
                log.error("%s; it stays unsettled and is tried again", self.trouble)
                self._loop.call_later(5.0, self.letters.add, (delivery, error))
                continue
            log.error(
                "handler %s: dead letter %s after %d attempts: %s",
                self.handler.name,
                letter.id,
                delivery.attempt,
                letter.reason,
            )
            self.measures.outcomes["dead"] += 1
            delivery._outcome = DEAD
            if delivery._identity is None:
                self.unmarked(delivery, DEAD)
            elif delivery in self._waiting_lanes:
                self.complete(delivery)
            else:
                self.settle.add(delivery)
            await runtime.buried(letter, replay_number(delivery))

    async def _correct(self, batch: list[tuple[Identity, Attempts]]) -> None:
        """The circuit breaker took failures back."""
        ledger = self.ledger
        if ledger is not None:
            await self.stored("record", lambda: ledger.record(self.handler.name, batch))

    async def _release(self, batch: list[Delivery]) -> None:
        ledger = self.ledger
        identities = [delivery._identity for delivery in batch if delivery._identity is not None]
        if ledger is not None and identities:
            await self.stored("release", lambda: ledger.release(self.handler.name, identities))

    def unmarked(self, delivery: Delivery, outcome: Outcome) -> None:
        """Settle without a mark: a duplicate, a filtered one, one that comes again."""
        delivery.source.settle(delivery, outcome)
        self._let_go(delivery)

    def _let_go(self, delivery: Delivery) -> None:
        for subscription in self.runner.subscriptions:
            subscription.let_go((delivery,))
        self.runner.released(1, delivery.size)

    async def stored(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Call a store until it answers: it is waited for, never worked around."""
        delay = 0.1
        measures = self.runner.runtime.store_measures
        while True:
            begun = self._loop.time()
            try:
                answer = await call()
            except StoreUnavailable as error:
                measures.error(operation)
                if not self.trouble:
                    log.warning("handler %s waits for the store (%s): %s", self.handler.name, operation, error)
                self.trouble = f"handler {self.handler.name!r} waits for the store: {error}"
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)
            else:
                measures.add(operation, self._loop.time() - begun)
                if self.trouble:
                    self.trouble = ""
                return answer

    async def join(self) -> None:
        """Wait until every stage is empty."""
        stages: list[Stage[Any]] = [
            self.publications, self.retries, self.letters, self.corrections, self.releases, self.settle, self.refusals.stage,
        ]  # fmt: skip
        if self.runner.suspicion is not None:
            stages = [self.runner.suspicion.starts, *stages, self.runner.suspicion.ends]
        for _ in range(3):
            for stage in stages:
                await stage.join()

    async def close(self) -> None:
        """End the stages."""
        stages: list[Stage[Any]] = [
            self.publications, self.retries, self.letters, self.corrections, self.releases, self.settle, self.claims,
            self.refusals.stage,
        ]  # fmt: skip
        for stage in stages:
            await stage.close()


def _asked(error: BaseException) -> float | None:
    """The seconds that an HTTP 429 or 503 answer asked for, where the error carries them as ``retry_after``."""
    seconds = getattr(error, "retry_after", None)
    return float(seconds) if isinstance(seconds, (int, float)) and seconds >= 0 else None
