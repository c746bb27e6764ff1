"""Completions that the ledger refused, and claims whose answer was lost.

A mark is refused where the claim is no longer this owner's: somebody else took it after the lease was over, or the answer to
the first try was lost and the mark is there. Neither may be left lying: a source that keeps order would wait for it for ever.
The ledger is asked again: finished, and the delivery is settled; free, and what was handled here is marked under a new claim;
busy, and it is asked again later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace.engine.claims import LOOK_AGAIN
from headrace.engine.delivery import ACK, Delivery
from headrace.engine.ledger import Claim, Identity
from headrace.engine.stage import Stage

if TYPE_CHECKING:
    from headrace.engine.outcomes import Outcomes

__all__ = ["Refusals"]


class Refusals:
    """Of one handler."""

    __slots__ = ("_loop", "_outcomes", "pending", "stage")

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._loop = asyncio.get_running_loop()
        #: Events that were handled here and are not marked, until the ledger has given them back.
        #: Whoever else of ours claims one meanwhile waits, for it would be handled again.
        self.pending: set[Identity] = set()
        self.stage: Stage[Delivery] = Stage(self._ask, outcomes.runner.runtime.defect)

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """These were handled, and their marks refused; they stay held until it is clear what became of them."""
        for delivery in deliveries:
            self.stage.add(delivery)

    async def _ask(self, batch: list[Delivery]) -> None:
        outcomes = self._outcomes
        identities: list[Identity] = [delivery._identity for delivery in batch if delivery._identity is not None]
        for delivery, claim in zip(batch, await outcomes.claims.claim(identities), strict=True):
            if (claim.state != "busy" or delivery.voided is not None) and delivery._identity is not None:
                self.pending.discard(delivery._identity)
            if delivery.voided is not None:
                outcomes.releases.add(delivery)
                outcomes.unmarked(delivery, ACK)
            elif claim.state in ("claimed", "ours"):
                outcomes.settle.add(delivery)
            elif claim.state == "busy":
                if not outcomes.runner.stopping:
                    self._loop.call_later(LOOK_AGAIN, self.stage.add, delivery)
            else:
                outcomes.unmarked(delivery, delivery._outcome or ACK)

    def untangled(self, identities: Sequence[Identity], claims: Sequence[Claim]) -> list[Claim]:
        """Answers to a claim that was asked more than once: ``ours`` is ours by the lost answer, unless another delivery
        of the same event is in progress here."""
        in_progress = {
            delivery._identity
            for subscription in self._outcomes.runner.subscriptions
            for delivery in subscription.held
            if delivery._claim not in ("ours", "busy", "finished", "lost")
        }
        answers = []
        for identity, claim in zip(identities, claims, strict=True):
            if claim.state == "ours" and identity not in in_progress:
                claim = Claim("claimed", claim.attempts)
            if claim.state == "claimed":
                in_progress.add(identity)
            answers.append(claim)
        return answers
