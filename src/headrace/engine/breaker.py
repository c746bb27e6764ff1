"""The circuit breaker of a handler: what fails for everybody is an outage, not poison (delivery.md, Retry).

It counts attempts that failed and would be retried or exhausted. After so many in a row without a success, of several
different events, it opens: fetching pauses and no attempt starts but one probe at a time, on a different event each time.
Failures of that row, and of probes, are taken back from the events' attempts: an outage dead-letters nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from headrace.engine.ledger import Attempts
from headrace.errors import words

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery
    from headrace.engine.ledger import Identity
    from headrace.engine.runner import Runner

__all__ = ["Breaker", "Limits"]

log = logging.getLogger("headrace.engine")

#: Seconds before the first probe, and at most between two of them.
FIRST_PROBE, LAST_PROBE = 0.5, 5.0


class Limits(NamedTuple):
    """When a breaker opens: failures in a row (0: never), of so many different events at least."""

    failures: int = 20
    events: int = 3


class Breaker:
    """One handler's breaker. ``row`` counts each delivery's failures since the last success; empty while all is well."""

    def __init__(self, runner: Runner, limits: Limits) -> None:
        self._runner = runner
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._failures = 0
        self._since = 0.0
        self._last = ""
        self._probing: asyncio.Task[None] | None = None
        self._probe: Delivery | None = None
        self._ended = asyncio.Event()
        self._arrived = asyncio.Event()
        self.row: dict[Delivery, int] = {}
        self._identities: set[Identity | int] = set()
        self.open = False
        self.wants_one = False

    def failed(self, delivery: Delivery, error: BaseException) -> bool:
        """An attempt failed that would be retried or exhausted. ``True``: it does not count, the delivery waits its turn
        at the head of its lane."""
        self._last = f"{type(error).__name__}: {words(error)}"[:200]
        if self.open:
            self._take_back(delivery, 1)
            self._runner.ready.append(delivery)
            self._arrived.set()
            return True
        if not self._limits.failures:
            return False
        self._failures += 1
        self.row[delivery] = self.row.get(delivery, 0) + 1
        event = delivery.event
        self._identities.add(id(delivery) if event is None else (event.source, event.id))
        if self._failures < self._limits.failures or len(self._identities) < self._limits.events:
            return False
        self._trip(delivery)
        return True

    def ended(self, delivery: Delivery) -> None:
        """An attempt ended without success, whatever follows from it."""
        if delivery is self._probe:
            self._ended.set()

    def succeeded(self) -> None:
        """An event was handled: what failed before it was no outage, or the outage is over."""
        self.row.clear()
        self._identities.clear()
        self._failures = 0
        if self.open:
            self.open = False
            self.wants_one = False
            if self._probe is not None:
                # Where it has not begun, it does so as any other now.
                self._runner.let_through.discard(self._probe)
            if self._probing is not None:
                self._probing.cancel()
            log.warning(
                "handler %s: circuit breaker closed after %.1f s",
                self._runner.handler.name,
                self._loop.time() - self._since,
            )
            self._runner.resume("breaker")

    def detail(self) -> str:
        """One sentence while it is open, else empty."""
        if not self.open:
            return ""
        return (
            f"handler {self._runner.handler.name!r}: its circuit breaker is open, {self._failures} attempts in a row failed "
            f"(the last: {self._last}); its sources are paused, one event at a time is tried until one succeeds"
        )

    def joined(self) -> None:
        """A delivery reached the ready lanes while the handler is paused."""
        self._arrived.set()

    def _trip(self, last: Delivery) -> None:
        runner = self._runner
        self.open = True
        self._since = self._loop.time()
        runner.pause("breaker")
        log.error("%s", self.detail())
        corrected: list[tuple[Identity, Attempts]] = []
        for delivery, failures in self.row.items():
            self._take_back(delivery, failures)
            if delivery._identity is not None and delivery._history is not None:
                corrected.append((delivery._identity, delivery._history))
            if delivery in runner.parking.places:
                # It waits for the probe's success now, not for its own backoff.
                runner.unpark(delivery)
        runner.ready.append(last)
        runner.outcomes.corrections.items.extend(corrected)
        runner.outcomes.corrections.wake()
        self.row.clear()
        self._identities.clear()
        self._probing = self._loop.create_task(self._probe_until_closed())

    def _take_back(self, delivery: Delivery, failures: int) -> None:
        delivery.attempt = max(0, delivery.attempt - failures)
        history = delivery._history
        if history is not None:
            kept = history.errors[: max(0, len(history.errors) - failures)]
            delivery._history = Attempts(delivery.attempt, history.first, kept)

    async def _probe_until_closed(self) -> None:
        runner = self._runner
        delay = FIRST_PROBE
        while self.open and not runner.stopping:
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_PROBE)
            delivery = await self._candidate()
            if delivery is None:
                continue
            self._probe = delivery
            self._ended.clear()
            runner.let_pass(delivery)
            await self._ended.wait()
            self._probe = None

    async def _candidate(self) -> Delivery | None:
        """The next delivery that may start; one is fetched where none is here. ``None`` while nothing may start at all: the
        operator has paused, or a suspect is to run alone, which may stand first among the ready and has to stay there."""
        runner = self._runner
        while True:
            self._arrived.clear()
            if runner.stopping or runner.paused_by("operator") or not runner.slots_open():
                return None
            found = self._startable()
            if found is not None:
                return found
            self.wants_one = True
            runner.fetch_more()
            try:
                await self._arrived.wait()
            finally:
                self.wants_one = False

    def _startable(self) -> Delivery | None:
        """Take the first head that may start. What its source has lost leaves its lane here, for no worker comes by while
        the handler is paused: it would stand before everything of its key for ever. Where there are suspects only, the first
        of them has its start recorded, and comes back."""
        runner = self._runner
        ready = runner.ready
        suspect: Delivery | None = None
        left = len(ready)
        while left:
            delivery = ready.popleft()
            left -= 1
            if delivery._claim is None:
                return delivery
            if delivery._claim == "suspect":
                suspect = suspect or delivery
                ready.append(delivery)
                continue
            before = len(ready)
            runner.outcomes.claims.admit(delivery)
            left += len(ready) - before
        if suspect is not None:
            ready.remove(suspect)
            runner.outcomes.claims.admit(suspect)
        return None

    async def close(self) -> None:
        """End the probing."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
