"""Claims before an attempt, and the heads of lanes that wait because somebody else has claimed their event.

A claim that another process holds, or another delivery of the same event here, is asked for again until it is free (then the
attempt may start) or the event is finished (then the delivery was a duplicate). What waits stays at the head of its lane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from headrace.engine.delivery import ACK, Delivery
from headrace.engine.ledger import Claim, Identity
from headrace.engine.stage import Stage

if TYPE_CHECKING:
    from headrace.engine.outcomes import Outcomes

__all__ = ["LOOK_AGAIN", "Claims"]

#: Seconds between looks at an event that another process has claimed.
LOOK_AGAIN = 0.5
OURS: Final = Claim("ours")


class Claims:
    """Of one handler."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._runner = outcomes.runner
        self._handler = outcomes.handler
        self._measures = outcomes.measures
        self._waiting: dict[Delivery, asyncio.TimerHandle] = {}
        self._asking: set[Delivery] = set()
        self._loop = asyncio.get_running_loop()
        self.stage: Stage[Delivery] = Stage(self._reclaim, outcomes.runner.runtime.defect)

    async def claim(self, identities: Sequence[Identity]) -> Sequence[Claim]:
        """Claim a batch; waits through outages of the ledger."""
        ledger = self._outcomes.ledger
        assert ledger is not None
        asked = 0

        async def ask() -> Sequence[Claim]:
            nonlocal asked
            asked += 1
            return await ledger.claim(self._handler.name, identities)

        claims = await self._outcomes.stored("claim", ask)
        refusals = self._outcomes.refusals
        if asked > 1:
            claims = refusals.untangled(identities, claims)
        if refusals.pending:
            pairs = zip(identities, claims, strict=True)
            claims = [OURS if claim.state == "claimed" and one in refusals.pending else claim for one, claim in pairs]
        return claims

    def admit(self, delivery: Delivery) -> bool:
        """A head with a hurdle: ``True`` where the attempt may start now."""
        if delivery._claim == "void":
            self._outcomes.voided(delivery)
            return False
        if delivery._claim == "lost":
            self._abandon(delivery)
            return False
        if delivery._claim == "suspect":
            assert self._runner.suspicion is not None
            self._runner.suspicion.starts.add(delivery)
            return False
        # Claimed elsewhere, or a duplicate of one in progress here: it waits at the head of its lane.
        self._waiting[delivery] = self._loop.call_later(LOOK_AGAIN, self.stage.add, delivery)
        return False

    def take_waiting(self) -> list[Delivery]:
        """For the drain: the heads that wait for another's claim. One that is being asked for is given back with its answer,
        and what is behind it in its lane now."""
        for timer in self._waiting.values():
            timer.cancel()
        taken = list(self._waiting)
        self._waiting.clear()
        for delivery in self._asking:
            behind, delivery._next = delivery._next, None
            if behind is not None:
                taken.append(behind)
        return taken

    def void_waiting(self, delivery: Delivery) -> bool:
        """A delivery was lost by its source: ``True`` if it was one that waits for another's claim, which is none of its own."""
        timer = self._waiting.pop(delivery, None)
        if timer is None:
            # Being asked for: whether there is a claim to give back is in the answer.
            return delivery in self._asking
        timer.cancel()
        self._abandon(delivery)
        return True

    def _abandon(self, delivery: Delivery) -> None:
        self._measures.outcomes["cancelled"] += 1
        self._runner.free_lane(delivery)
        self._outcomes.let_go(delivery)

    async def _reclaim(self, batch: list[Delivery]) -> None:
        batch = [delivery for delivery in batch if self._waiting.pop(delivery, None) is not None]
        identities = [delivery._identity for delivery in batch if delivery._identity is not None]
        if not batch:
            return
        self._asking.update(batch)
        try:
            claims = await self.claim(identities)
        finally:
            self._asking.difference_update(batch)
        for delivery, claim in zip(batch, claims, strict=True):
            if delivery.voided is not None:
                if claim.state == "claimed":
                    self._outcomes.voided(delivery)
                else:
                    self._abandon(delivery)
                continue
            if self._runner.stopping:
                self._runner.runtime.hand_back(delivery)
                continue
            self.take(delivery, claim)
            if delivery._claim in (None, "suspect") or (claim.state == "ours" and self._take_over(delivery)):
                self._runner.ready.append(delivery)
            elif delivery._claim == "finished":
                self.duplicate(delivery)
                self._runner.free_lane(delivery)
            else:
                self._waiting[delivery] = self._loop.call_later(LOOK_AGAIN, self.stage.add, delivery)
        if self._runner.ready:
            self._runner.wake()

    def take(self, delivery: Delivery, claim: Claim) -> None:
        """Write a claim's answer into its delivery: ``_claim`` None (go), ``finished``, ``ours`` or ``busy``."""
        state, attempts = claim
        if state == "claimed":
            delivery._claim = None
            if attempts is not None:
                delivery._history = attempts
                delivery.attempt = attempts.count
            suspicion = self._runner.suspicion
            if (
                delivery.redelivered
                and suspicion is not None
                and not suspicion.is_cleared(delivery._identity or ("", ""))
            ):
                delivery._claim = "suspect"
            self._measures.lookups["fresh"] += 1
        elif state in ("ours", "busy"):
            delivery._claim = state
            self._measures.lookups["busy"] += 1
        else:
            delivery._claim = "finished"
            self._measures.lookups["duplicate"] += 1

    def _take_over(self, head: Delivery) -> bool:
        """Our claim of a head's event came to a later delivery of it, behind it in its lane: the head has it now, for each
        would wait for the other. ``False`` where there is none: the one in progress is somewhere else."""
        behind, identity = head._next, head._identity
        while behind is not None and identity is not None:
            if behind._identity == identity and behind._claim in (None, "suspect"):
                suspicion = self._runner.suspicion
                suspect = head.redelivered and suspicion is not None and not suspicion.is_cleared(identity)
                head._claim, behind._claim = "suspect" if suspect else None, "ours"
                head._history, behind._history = behind._history, None
                head.attempt, behind.attempt = behind.attempt, 0
                return True
            behind = behind._next
        return False

    def duplicate(self, delivery: Delivery) -> None:
        """A finished event came again."""
        self._measures.outcomes["duplicate"] += 1
        self._outcomes.count_replays((delivery,), "duplicate")
        self._outcomes.unmarked(delivery, ACK)

    def finished_here(self) -> None:
        """Completions were marked: duplicates that waited for one of them need not wait for their timers."""
        for delivery, timer in self._waiting.items():
            if delivery._claim == "ours":
                timer.cancel()
                self.stage.add(delivery)
