"""The source of a handler's replay channel. For a keyed handler only the owner of its consumer reads it: a replayed event
runs in the lane of its key, and a lane is in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headrace.engine.source import Credit
from headrace.nats.source import JetStreamSource

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery, Outcome
    from headrace.nats.message import JetStreamDelivery
    from headrace.nats.owner import OwnedSource

__all__ = ["OwnedReplays"]


class OwnedReplays(JetStreamSource):
    """Replays of a keyed handler, read while this process owns the handler's consumer."""

    keeps_order = True

    def __init__(self, *arguments: Any, owner: OwnedSource | None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._owner = owner
        self._out: set[Any] = set()
        if owner is not None:
            owner.on_owner.append(self._turned)

    def _mine(self) -> bool:
        return self._owner is None or self._owner.owner or self._owner.unowned

    def _turned(self) -> None:
        if not self._mine():
            out, self._out = self._out, set()
            for delivery in out:
                # Given back at once, to whoever owns the handler now.
                self._acks.nak(delivery, 0.0)
                delivery.void("another process owns this handler's consumer now")
            if self._pulls.tap is not None:
                self._give_back(self._pulls.forget())
                self._pulls.renew()
        self._wake()

    def _pull(self, credit: Credit) -> None:
        if self._mine():
            super()._pull(credit)

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """As the shared source, but only as the owner."""
        batch = await super().fetch(credit)
        self._out.update(batch)
        return batch

    def settle(self, delivery: Any, outcome: Outcome) -> None:
        """Queue how a delivery ended."""
        self._out.discard(delivery)
        super().settle(delivery, outcome)

    def acknowledge(self, deliveries: Sequence[JetStreamDelivery]) -> None:
        """Queue the acks of these."""
        self._out.difference_update(deliveries)
        super().acknowledge(deliveries)

    async def _watch(self, now: float) -> None:
        """Are there replays that nobody may read, since nobody owns the handler?"""
        if self._owner is None or self._owner.owner or self._waiting is None:
            return
        if self._owner.unowned:
            self._wake()
            return
        info = await self._api.consumer(self._incarnation.stream, self._wanted.durable)
        if info is not None and (info.get("num_pending", 0) or info.get("num_ack_pending", 0)):
            self._owner.claim()

    async def close(self) -> None:
        """Give back what was never handed over, and let go."""
        if self._owner is not None and self._turned in self._owner.on_owner:
            self._owner.on_owner.remove(self._turned)
        await super().close()
