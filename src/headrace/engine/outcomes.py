"""What becomes of a delivery after its attempt: outputs, retry, dead letter, mark, settlement.

The order is the promise: outputs are confirmed before the mark, the mark is in the ledger before the source is told, and
a dead letter is stored before its delivery is marked and settled. Each step is a `Stage`: one round trip for many events.
A lane is freed when outputs are confirmed (or the dead letter is stored); marks and settles follow in that order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from headrace.engine.claims import Claims
from headrace.engine.delivery import ACK, Delivery, Outcome
from headrace.engine.failpoints import passing
from headrace.engine.failures import Failures
from headrace.engine.ledger import Attempts, Identity
from headrace.engine.letters import replay_number
from headrace.engine.outputs import Outputs
from headrace.engine.refusals import Refusals
from headrace.engine.stage import Stage
from headrace.engine.transactional import Committed
from headrace.errors import HeadraceError, StoreUnavailable

if TYPE_CHECKING:
    from headrace.engine.runner import Runner

__all__ = ["Outcomes"]

T = TypeVar("T")
log = logging.getLogger("headrace.engine")

#: Seconds that a sender is kept waiting for a store or sink that does not answer; the handler's timeout where that is shorter.
PATIENCE: Final = 5.0

_STATES = {"dead": "dead", "drop": "dropped"}


class Outcomes:
    """The stages behind the lanes of one handler. ``store_trouble`` is one sentence while a store does not answer,
    ``sink_trouble`` while a sink makes it wait, ``letter_trouble`` while a dead letter is refused for what it holds."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        handler = runner.handler
        self.handler = handler
        self.measures = runner.measures
        self.store_trouble = self.sink_trouble = self.letter_trouble = ""
        runtime = runner.runtime
        self.ledger = runtime.ledger if handler.idempotent else None
        self.outputs = Outputs(self)
        defect = runtime.defect
        self.settle: Stage[Delivery] = Stage(self._settle, defect)
        self.publications: Stage[tuple[Delivery, Any]] = Stage(self.outputs.process, defect, parallel=4)
        self.releases: Stage[Delivery] = Stage(self._release, defect)
        self.claims = Claims(self)
        self.failures = Failures(self)
        self.refusals = Refusals(self)
        self.corrections: Stage[tuple[Identity, Attempts]] = Stage(self._correct, defect)
        #: Heads whose attempt has ended and whose lane still waits for a confirmation.
        self.waiting_lanes: dict[Delivery, None] = {}
        self._loop = asyncio.get_running_loop()
        self._marked = passing("marked")
        self._settled = passing("settled")

    # After an attempt

    def returned(self, delivery: Delivery, result: Any) -> None:
        """The handler returned a value."""
        if delivery.voided is not None:
            self.voided(delivery)
        elif self.handler.publishes is not None:
            self.waiting_lanes[delivery] = None
            self.publications.add((delivery, result))
        else:
            if delivery.answers:
                try:
                    delivery._outcome = Outcome("ack", result=self.outputs.answer(delivery, result))
                except HeadraceError as error:
                    self.failures.failed(delivery, error)
                    return
            self.complete(delivery)

    def complete(self, delivery: Delivery) -> None:
        """Handled, outputs confirmed: on to mark and settlement; the lane is free."""
        self.waiting_lanes.pop(delivery, None)
        self.settle.add(delivery)
        self.runner.free_lane(delivery)

    def voided(self, delivery: Delivery) -> None:
        """Lost by its source: nothing of it counts; the claim goes back."""
        self.waiting_lanes.pop(delivery, None)
        self.attempt_ended(delivery)
        self.measures.outcomes["cancelled"] += 1
        self.runner.free_lane(delivery)
        self.let_go(delivery)
        self.releases.add(delivery)

    def attempt_ended(self, delivery: Delivery) -> None:
        """The process lives, whatever becomes of the event."""
        if self.runner.suspicion is not None:
            self.runner.suspicion.ended(delivery)
        self.runner.breaker.ended(delivery)

    # Stages

    async def _settle(self, batch: list[Delivery]) -> None:
        tracer = self.runner.runtime.tracer
        if tracer is None:
            await self._settle_all(batch)
            return
        settling = tracer.settle(batch[0].source.name, [one._span for one in batch if one._span is not None])
        await self._settle_all(batch)
        settling.end()

    async def _settle_all(self, batch: list[Delivery]) -> None:
        handled = self.measures.outcomes["ok"]
        good = done = [delivery for delivery in batch if delivery._outcome is None]
        refused: list[Delivery] = []
        if self.ledger is not None:
            good = await self._mark(done, "done", refused)
        settled = len(good)
        if good:
            self._acknowledge(good)
        self.measures.outcomes["ok"] += settled
        self.count_replays(good, "ok")
        if len(done) != len(batch):
            for delivery in batch:
                outcome = delivery._outcome
                if outcome is None:
                    continue
                if isinstance(outcome, Committed):
                    outcome = ACK if outcome.result is None else outcome
                elif self.ledger is not None and delivery._identity is not None:
                    state = _STATES.get(outcome.kind, "done")
                    if not await self._mark([delivery], state, refused):
                        continue
                if outcome.kind == "ack":
                    self.measures.outcomes["ok"] += 1
                    self.count_replays((delivery,), "ok")
                elif outcome.kind == "drop":
                    self.count_replays((delivery,), "dropped")
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
        self.claims.finished_here()

    def _acknowledge(self, batch: list[Delivery]) -> None:
        holding = [subscription for subscription in self.runner.subscriptions if subscription.held]
        if len(holding) == 1 and holding[0].acknowledge is not None:
            # All are of one source, as nearly always.
            holding[0].acknowledge(batch)
            return
        for delivery in batch:
            delivery.source.settle(delivery, ACK)

    def count_replays(self, ended: Iterable[Delivery], how: str) -> None:
        """Those of them that are replays have ended so. A dead one is counted where its letter is stored."""
        if self.measures.saw_replays:
            self.measures.replayed[how] += sum(1 for delivery in ended if replay_number(delivery))

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
        self.refusals.pending.update(one for one, mark in zip(identities, marks, strict=True) if not mark)
        return [delivery for delivery, mark in zip(batch, marks, strict=True) if mark]

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
        self.let_go(delivery)

    def let_go(self, delivery: Delivery) -> None:
        for subscription in self.runner.subscriptions:
            subscription.let_go((delivery,))
        self.runner.released(1, delivery.size)

    async def stored(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Call a store until it answers: it is waited for, never worked around. Senders who wait do so for a bounded time."""
        delay = 0.1
        patience = self.patience_ends()
        measures = self.runner.runtime.store_measures
        while True:
            begun = self._loop.time()
            try:
                answer = await call()
            except StoreUnavailable as error:
                measures.error(operation)
                if not self.store_trouble:
                    log.warning("handler %s waits for the store (%s): %s", self.handler.name, operation, error)
                self.waits_for_store(error)
                if self._loop.time() >= patience:
                    running = set(self.runner.deadlines.running())
                    held = [one for sub in self.runner.subscriptions for one in sub.held if one not in running]
                    self.answer_senders(held, self.store_trouble, 1.0)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)
            else:
                measures.add(operation, self._loop.time() - begun)
                if self.store_trouble:
                    self.store_trouble = ""
                return answer

    @property
    def trouble(self) -> str:
        """What makes the handler wait, in one sentence, or empty."""
        return self.store_trouble or self.sink_trouble or self.letter_trouble

    def waits_for_store(self, error: StoreUnavailable) -> None:
        """A store did not answer: told by `health_detail`, and the handler is not ready."""
        self.store_trouble = f"handler {self.handler.name!r} waits for the store: {error}"

    def patience_ends(self) -> float:
        """Until when (the loop's time) a sender is kept waiting for a store or sink that does not answer from now on."""
        return self._loop.time() + min(PATIENCE, self.handler.timeout)

    def answer_senders(self, deliveries: Iterable[Delivery], trouble: str, delay: float) -> None:
        """Those of these deliveries whose senders wait are answered: come again. What they were told makes their deliveries
        void; claims go back when the store answers."""
        sources = [subscription.source for subscription in self.runner.subscriptions]
        for delivery in deliveries:
            # One that was acknowledged first has another source by now.
            if delivery.answers and delivery.voided is None and delivery.source in sources:
                delivery.source.settle(delivery, Outcome("retry", delay=delay, error=HeadraceError(trouble)))
                delivery.void("its sender was told to send it again")

    async def join(self) -> None:
        """Wait until every stage is empty."""
        stages: list[Stage[Any]] = [
            self.claims.stage, self.failures.retries, self.failures.letters,
            self.corrections, self.releases, self.settle, self.refusals.stage,
        ]  # fmt: skip
        if self.runner.suspicion is not None:
            stages = [self.runner.suspicion.starts, *stages, self.runner.suspicion.ends]
        for _ in range(3):
            await self.publications.join()
            await self.outputs.unconfirmed.join()
            for stage in stages:
                await stage.join()

    async def close(self) -> None:
        """End the stages."""
        await self.outputs.unconfirmed.close()
        stages: list[Stage[Any]] = [
            self.publications, self.failures.retries, self.failures.letters,
            self.corrections, self.releases, self.settle, self.claims.stage,
            self.refusals.stage,
        ]  # fmt: skip
        for stage in stages:
            await stage.close()
