"""A consumer with one active owner at a time: for keyed handlers, whose order would not survive a shared consumer.

The consumer's priority policy pins one client. The others stand by with a pull of one message each. Who is given a message
by such a pull is pinned from then on; unless that message is the first of all, something was delivered to a predecessor, so
the consumer is rewound to its acknowledgement floor and everything comes again in stream order (the ledger knows what was
finished). The owner proves that it lives with a pull every 2 s; one that learns of another pin gives up what it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from headrace.engine.source import Progress
from headrace.errors import StoreUnavailable
from headrace.nats import consumers
from headrace.nats.api import ApiError
from headrace.nats.consumers import GROUP
from headrace.nats.in_hand import InHand
from headrace.nats.message import facts
from headrace.nats.notes import Notes
from headrace.nats.ownership import OwnerRecord, pin_of
from headrace.nats.pin import Pin
from headrace.nats.requests import NoResponders, Silent
from headrace.nats.source import JetStreamSource
from headrace.nats.standby import Standby
from headrace.nats.wire import status

if TYPE_CHECKING:
    from headrace.engine.delivery import Outcome
    from headrace.engine.source import Credit
    from headrace.nats.api import Json
    from headrace.nats.message import JetStreamDelivery

__all__ = ["OwnedSource"]

log = logging.getLogger("headrace.nats")

_RESET_SINCE: Final = (2, 14)


class OwnedSource(JetStreamSource):
    """One durable consumer with one owner. ``on_owner`` is called when this process becomes the owner, or no longer is."""

    keeps_order = True

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.on_owner: list[Any] = []
        self._notes = Notes(self._broker, self._wanted.durable)
        self._pin = Pin(self._connection, displaced=self._displaced, gone=self._gone)
        self._standby = Standby(self._connection, pinned=self._pinned, gone=self._gone, heard=self._alive)
        self._hand = InHand(self.name, self._acks)
        self._held = self._hand.held
        self._turning: asyncio.Task[None] | None = None
        self._claims = False
        self._unowned_since = 0.0
        self._record = OwnerRecord(self._broker.bucket, self._wanted.durable)

    @property
    def owner(self) -> bool:
        """Whether this process is the active owner."""
        return bool(self._pin.id)

    # Pulling

    def _pull(self, credit: Credit) -> None:
        if self._turning is not None:
            return
        if self._pin.id:
            super()._pull(credit)
        elif self._ready:
            self._stand_by()

    def _claim(self) -> dict[str, str]:
        return self._pin.claim()

    def _stand_by(self) -> None:
        """Ask for one message; who gets it owns the consumer."""
        if self._standby.ask(self._pulls.next_subject):
            # Is there an owner at all? Asked at once, not at the next second.
            self._attend.set()

    def _alive(self) -> None:
        self._pulls.window.heard = asyncio.get_running_loop().time()
        self._wake()

    def _pinned(self, pin: str, message: tuple[bytes, bytes, bytes, bytes]) -> None:
        if pin and self._turning is None and not self._closing:
            self._turn(self._take_over(pin, message))

    def _gone(self) -> None:
        if self._turning is None:
            self._recover("the consumer does not answer")

    # Ownership

    def _turn(self, coroutine: Any) -> None:
        self._turning = asyncio.get_running_loop().create_task(self._turned(coroutine))
        self._turning.add_done_callback(self._ended)

    async def _turned(self, coroutine: Any) -> None:
        try:
            await coroutine
        finally:
            self._turning = None
            self._wake()

    async def _take_over(self, pin: str, message: tuple[bytes, bytes, bytes, bytes]) -> None:
        """We are pinned: begin at the floor."""
        self._pin.id = pin
        self._pin.hold(self._pulls.next_subject)
        about = facts(message[1])
        # What a predecessor was given: a rewound consumer counts its deliveries anew and does not say so itself.
        self._hand.before = max(about.sequence, self._standing.delivered[0] + 1)
        try:
            skip = await self._notes.acknowledged(self._incarnation.created) or 0
            self._hand.skip = max(self._hand.skip, skip)
        except StoreUnavailable as error:
            log.warning("%s: %s", self.name, error)
        if about.consumer_sequence == 1:
            # Nothing was delivered to anybody since the consumer was made or rewound: this is the first.
            self._from_the_floor()
            self._pulls.add(message)
        elif not await self._rewound():
            return
        if self._pin.id:
            log.info("%s: this process owns consumer %s now", self.name, self._wanted.durable)
            self._tell()
            self._attend.set()

    async def _rewound(self) -> bool:
        """Rewind to the floor; what is held stays held. ``False`` where we are no owner any more."""
        self._pulls.forget()
        delay = 0.05
        while self._pin.id and not self._closing:
            self._acks.write()
            try:
                if not await self._still_pinned():
                    self._displaced("the pin is another's")
                    return False
                await self._reset()
                if not self._pin.id:
                    return False
                self._from_the_floor()
                return True
            except NoResponders:
                self._turn_aside()
                return False
            except (Silent, ApiError, StoreUnavailable) as error:
                self._standing.detail = f"the consumer cannot be rewound yet: {error}"
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)
        return False

    def _from_the_floor(self) -> None:
        """The consumer begins anew: what is held comes again."""
        self._hand.begin_anew()
        self._pulls.renew()

    def _turn_aside(self) -> None:
        self._displaced("the consumer is gone")
        self._recover("the consumer does not answer")

    async def _still_pinned(self) -> bool:
        """Ask with our pin for what cannot be delivered: the answer says whether the pin is ours."""
        headers, _ = await self._connection.requests.ask(self._pulls.next_subject.decode(), self._pin.request())
        found = status(headers)
        return found is not None and found[0] != 423

    async def _reset(self, sequence: int = 0) -> None:
        """Have everything after the floor (or from ``sequence``) delivered again, in stream order."""
        stream, durable = self._incarnation.stream, self._wanted.durable
        if self._server_version() >= _RESET_SINCE:
            await self._api.call(f"CONSUMER.RESET.{stream}.{durable}", {"seq": sequence} if sequence else None)
            return
        info = await self._api.consumer(stream, durable)
        if info is None:
            raise NoResponders(f"consumer {durable} is gone")
        floor = sequence - 1 if sequence else info["ack_floor"]["stream_seq"]
        # The floor is stored first: a crash between the two calls must not begin the history anew.
        await self._notes.write_floor(floor, self._incarnation.created)
        self._pin.drop()
        with contextlib.suppress(NoResponders):
            await self._api.call(f"CONSUMER.DELETE.{stream}.{durable}")
        await consumers.create(self._api, stream, self._wanted.config_from(floor))
        await self._notes.clear_floor()
        self._wake()

    async def _ensure(self, stream: Json) -> Json:
        name, durable = stream["config"]["name"], self._wanted.durable
        if await self._api.consumer(name, durable) is None:
            # Deleted to be made anew at its floor, and then we, or another, died?
            floor = await self._notes.floor(stream["created"])
            if floor is not None:
                await consumers.create(self._api, name, self._wanted.config_from(floor))
        return await super()._ensure(stream)

    def _server_version(self) -> tuple[int, ...]:
        text = str(self._connection._server_info.get("version", "0"))
        return tuple(int(part) for part in text.split("-")[0].split(".")[:2] if part.isdigit())

    def _displaced(self, description: str) -> None:
        """We are no owner any more: give up what we hold, and stand by."""
        if not self._pin.id:
            return
        log.warning(
            "%s: another process owns consumer %s now (%s); %d deliveries are given up",
            self.name,
            self._wanted.durable,
            description,
            len(self._held),
        )
        self._pin.drop()
        self._hand.expected = 0
        self._void("another process owns this handler's consumer now")
        if self._pulls.tap is not None:
            self._pulls.forget()
            self._pulls.renew()
        self._tell()
        self._wake()

    def _void(self, reason: str) -> None:
        for delivery in self._hand.let_go():
            delivery.void(reason)

    def _lost_stream(self) -> None:
        self._hand.skip = 0
        self._void("the stream was deleted")

    def _tell(self) -> None:
        for call in list(self.on_owner):
            call()

    async def _watch(self, now: float) -> None:
        """As a stand-by: is there an owner? A dead one's messages would otherwise come only after ack_wait."""
        if self._pin.id:
            await self._record.write(self._pin.id)
            return
        if self._turning is not None or not self._ready or self._waiting is None:
            return
        self._stand_by()
        info = await self._api.consumer(self._incarnation.stream, self._wanted.durable)
        if info is None or self._pin.id or self._turning is not None:
            return
        pin = pin_of(info)
        await self._record.read(pin)
        if pin:
            self._unowned_since = 0.0
            if self._held:
                self._void("another process owns this handler's consumer now")
            return
        if info.get("num_ack_pending", 0) > 0:
            # So that two stand-bys seldom rewind the same consumer twice.
            await asyncio.sleep(random.uniform(0, 0.2))
            if not self._pin.id and self._turning is None:
                log.info("%s: the owner of consumer %s is gone; rewinding it", self.name, self._wanted.durable)
                await self._reset()
        elif self._claims:
            await self._rouse(info, now)

    # Ownership without a message: for replays on a quiet consumer

    def claim(self) -> None:
        """Somebody here has work for the owner (a replay): become it, also where the consumer is quiet."""
        self._claims = True

    @property
    def unowned(self) -> bool:
        """Nobody can be made the owner, since the consumer has no message to be pinned by."""
        return self._unowned_since > 0 and asyncio.get_running_loop().time() - self._unowned_since > 3.0

    async def _rouse(self, info: Json, now: float) -> None:
        """A pin needs a message. The last acknowledged one will do: it is delivered again, and acknowledged unseen.

        Which one it is, is noted first: whoever is pinned by it must know.
        """
        if not self._unowned_since:
            self._unowned_since = now
        floor = info["ack_floor"]["stream_seq"]
        if floor <= 0 or self._server_version() < _RESET_SINCE:
            return
        await self._notes.write_acknowledged(floor, self._incarnation.created)
        await self._reset(floor)

    # Deliveries

    def _take(self, credit: Credit) -> list[JetStreamDelivery]:
        tap = self._pulls.tap
        batch = super()._take(credit)
        if not batch:
            return batch
        if not self._pin.id or tap is not self._pulls.tap:
            # Displaced: `_displaced` has voided what was held; this batch was never handed over.
            return []
        batch, whole = self._hand.receive(batch, self._prefix)
        if not whole:
            self._rewind()
        return batch

    def _rewind(self) -> None:
        """Something was delivered elsewhere: begin again at the floor."""
        if self._turning is None and not self._closing:
            self._pulls.forget()
            self._turn(self._rewound())

    def settle(self, delivery: Any, outcome: Outcome) -> None:
        """Queue how a delivery ended; what is handed back is left to the successor's rewind."""
        if delivery.voided is not None or delivery.incarnation is not self._incarnation:
            return
        self._hand.settled((delivery,))
        if outcome.kind != "hand_back":
            super().settle(delivery, outcome)

    def acknowledge(self, deliveries: Sequence[JetStreamDelivery]) -> None:
        """Queue the acks of these."""
        self._hand.settled(deliveries)
        super().acknowledge(deliveries)

    # Health, recovery, the end

    def progress(self) -> Progress:
        """As for a shared source, and whether this process is the owner."""
        found = super().progress()
        found.owner = self.owner
        found.owned_by = "" if self.owner else self._record.owner
        return found

    def _connected(self) -> None:
        self._acks.again()
        self._standby.again()
        if not self._ready:
            return
        if self._pin.id:
            # What was under way to us is lost, and would come again only after ack_wait.
            self._pin.hold(self._pulls.next_subject)
            self._rewind()
        else:
            self._pulls.renew()
        self._wake()

    async def _restored(self) -> None:
        if self._turning is not None:
            self._turning.cancel()
        before = self._pin.id
        await super()._restored()
        self._standby.leave()
        if before:
            # The pin belonged to the consumer as it was; ask whether it still holds.
            try:
                pinned = await self._still_pinned()
            except NoResponders:
                pinned = False
            if pinned:
                self._pin.hold(self._pulls.next_subject)
                self._rewind()
            else:
                self._displaced("the consumer was lost")

    async def close(self) -> None:
        """Flush, unpin: a successor may begin at once. What is unsettled is left to its rewind."""
        self._closing = True
        self._pin.stop()
        if self._turning is not None:
            self._turning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._turning
        pinned = self._pin.id
        self._pin.drop()
        self._pin.close()
        self._standby.leave()
        await super().close()
        if pinned:
            with contextlib.suppress(Silent, ApiError):
                await self._api.call(
                    f"CONSUMER.UNPIN.{self._incarnation.stream}.{self._wanted.durable}", {"group": GROUP}, timeout=2.0
                )
        self._tell()

    def _give_back(self, replies: list[bytes]) -> None:
        """Nothing is handed back: a nak would let later events overtake."""

    async def extend(self, deliveries: Sequence[Any]) -> None:
        """Renew the time to acknowledge."""
        await super().extend([delivery for delivery in deliveries if delivery.voided is None])
