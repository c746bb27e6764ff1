"""Faults planted on purpose: each is a mistake that systems of this kind have made, and each must be found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.engine.delivery import Delivery
from headrace.engine.ledger import CLAIMED, Claim, Identity
from headrace.engine.outcomes import Outcomes
from headrace.engine.runtime import Runtime
from headrace.testing.simulation import Bug, Simulation
from headrace.testing.simulation.brokers import LogBroker, StreamBroker


class _MarksEarly:
    """A ledger that takes the claim for the completion."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def claim(self, handler: str, identities: Sequence[Identity]) -> Sequence[Claim]:
        claims: Sequence[Claim] = await self._ledger.claim(handler, identities)
        fresh = [identity for identity, claim in zip(identities, claims, strict=True) if claim is CLAIMED]
        if fresh:
            await self._ledger.mark(handler, fresh, "done")
        return claims

    async def mark(self, handler: str, identities: Sequence[Identity], state: str) -> Sequence[bool]:
        return [True] * len(identities)


def mark_before_handle(runtime: Runtime) -> None:
    for runner in runtime.handlers:
        runner.outcomes.ledger = _MarksEarly(runner.outcomes.ledger)


def ack_before_output(runtime: Runtime) -> None:
    for runner in runtime.handlers:
        _ack_first(runner.outcomes)


def _ack_first(outcomes: Outcomes) -> None:
    """Mark and settlement begin when the handler has returned; the output is published all the same, and its
    confirmation frees the lane alone. So it is lost only where a process dies, or its sink refuses, in between."""
    published, completed = outcomes.returned, outcomes.complete
    early: set[Delivery] = set()

    def returned(delivery: Delivery, result: Any) -> None:
        if delivery.voided is None and outcomes.handler.publishes is not None:
            early.add(delivery)
            outcomes.settle.add(delivery)
        published(delivery, result)

    def complete(delivery: Delivery) -> None:
        if delivery in early:
            early.discard(delivery)
            outcomes.waiting_lanes.pop(delivery, None)
            outcomes.runner.free_lane(delivery)
        else:
            completed(delivery)

    setattr(outcomes, "returned", returned)  # noqa: B010 - methods of one object
    setattr(outcomes, "complete", complete)  # noqa: B010


def lost_nack(simulation: Simulation) -> None:
    if isinstance(simulation.broker, StreamBroker):
        simulation.broker.loses_retries = True


def watermark_off_by_one(simulation: Simulation) -> None:
    if isinstance(simulation.broker, LogBroker):
        simulation.broker.excess = 1


def lease_not_checked(simulation: Simulation) -> None:
    if simulation.ledger is not None:
        simulation.ledger.checks_leases = False


def token_not_checked(simulation: Simulation) -> None:
    if simulation.ledger is not None:
        simulation.ledger.checks_tokens = False


def rewind_skipped(simulation: Simulation) -> None:
    if isinstance(simulation.broker, LogBroker):
        simulation.broker.rewinds = False


def voids_ignored(runtime: Runtime) -> None:
    for runner in runtime.handlers:
        setattr(runner, "on_void", lambda delivery: setattr(delivery, "voided", None))  # noqa: B010


def claims_never_released(runtime: Runtime) -> None:
    for runner in runtime.handlers:
        setattr(runner.outcomes.releases, "add", lambda delivery: None)  # noqa: B010


BUGS = [
    Bug("mark before handle", engine=mark_before_handle),
    Bug("ack before output", engine=ack_before_output),
    Bug("lost nack", world=lost_nack),
    Bug("watermark off by one", world=watermark_off_by_one),
    Bug("lease not checked", world=lease_not_checked),
    Bug("token not checked", world=token_not_checked),
    Bug("rewind skipped after a change of owner", world=rewind_skipped),
    Bug("voids ignored", engine=voids_ignored),
]
