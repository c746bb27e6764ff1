"""A JetStream consumer as a source, shared by all replicas: for handlers without a key.

Messages are pulled by credit, decoded in batches when the engine fetches, and acknowledged in batches. One task a source looks
after what happens seldom: a stalled pull, proofs of acks, unread events that expired, a consumer or stream that is gone.
`owner.OwnedSource` builds on it for keyed handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from headrace.engine.source import Credit, Progress
from headrace.errors import ConnectionFailed, HeadraceError, InvalidEvent, StoreUnavailable
from headrace.nats import consumers
from headrace.nats.acks import Acks
from headrace.nats.api import ApiError, nanoseconds
from headrace.nats.blocks import decode
from headrace.nats.message import Incarnation, JetStreamDelivery, numbers, plain, prefix_of
from headrace.nats.pulls import Pulls
from headrace.nats.recovery import Recovery
from headrace.nats.requests import Silent
from headrace.nats.standing import Standing
from headrace.nats.streams import incarnation
from headrace.nats.wire import publication

if TYPE_CHECKING:
    from headrace.engine.broker import Binding
    from headrace.engine.delivery import Delivery, Outcome
    from headrace.event import Event
    from headrace.nats.api import Api, Json
    from headrace.nats.broker import NatsBroker
    from headrace.nats.consumers import Wanted

__all__ = ["JetStreamSource"]

log = logging.getLogger("headrace.nats")

#: Seconds between looks at the consumer's and the stream's state.
_LOOK_EVERY: Final = 10.0
#: Seconds between renewals of the time to acknowledge, at most; where that time is short, a third of it.
_EXTEND_EVERY: Final = 10.0
_FLUSH_WITHIN: Final = 5.0


class JetStreamSource:
    """One durable consumer, read by one handler.

    ``locate`` finds or creates the stream and gives its info; ``wanted`` is the consumer that it needs there.
    """

    keeps_order = False
    extend_every: float | None = _EXTEND_EVERY

    def __init__(
        self,
        broker: NatsBroker,
        binding: Binding,
        *,
        name: str,
        locate: Callable[[], Awaitable[Json]],
        wanted: Wanted,
    ) -> None:
        self.name = name
        self._broker = broker
        self._binding = binding
        self._connection = broker.connection
        self._api: Api = broker.api
        self._locate = locate
        self._wanted = wanted
        self._acks = Acks(self._connection)
        self._pulls = Pulls(
            self._connection,
            arrived=self._arrived,
            claim=self._claim,
            displaced=self._displaced,
            lost=self._recover,
        )
        self._incarnation = Incarnation("", "")
        self._prefix = 0
        self._ready = False
        self._closing = False
        self._failure: BaseException | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._standing = Standing(name)
        self._recovery = Recovery(name, self._standing, restore=self._restored, ended=self._recovered)
        self._tending: asyncio.Task[None] | None = None
        self._attend = asyncio.Event()
        self._extend_every = _EXTEND_EVERY
        # A quarter of what the engine may hold at a time, so that some of it is in its hands while some arrives and some is
        # asked for. In larger batches the server would wait for us and we for the server, by turns.
        self._batch = max(1, (binding.prefetch.items + binding.concurrency) // 4)

    # Opening

    async def open(self) -> None:
        """Find or create stream and consumer.

        Raises:
            ConfigurationError: what is found does not fit. RefusedError: it looks like a renamed handler.
            ConnectionFailed: JetStream does not answer in time.
        """
        await self._broker.open()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._binding.ready_within
        while True:
            try:
                stream = await self._locate()
                info = await self._ensure(stream)
                break
            except (Silent, ApiError, StoreUnavailable) as error:
                if (isinstance(error, ApiError) and not error.transient) or loop.time() > end:
                    raise ConnectionFailed(
                        f"{self.name}: JetStream at {self._broker.url} is not ready: {error}. Is JetStream enabled there?"
                    ) from error
                await asyncio.sleep(0.2)
        self._adopt(stream, info)
        self._standing.opened(stream)
        self._connection.on_connect.append(self._connected)
        self._connection.on_disconnect.append(self._disconnected)
        self._tending = loop.create_task(self._tend(), name=f"headrace {self.name}")
        self._tending.add_done_callback(self._ended)

    async def _ensure(self, stream: Json) -> Json:
        return await consumers.ensure_consumer(self._api, stream, self._wanted)

    def _adopt(self, stream: Json, info: Json) -> None:
        """Read from this consumer from now on."""
        found = incarnation(stream)
        if found != self._incarnation:
            # Sequences of another incarnation mean other messages: acks of the old ones must never reach it.
            self._acks.clear()
            self._incarnation = found
        self._standing.adopt(stream, info, self._wanted.subject or "")
        config = info["config"]
        waits = [config.get("ack_wait") or 0, *(config.get("backoff") or [])]
        shortest = min((wait for wait in waits if wait), default=nanoseconds(consumers.ACK_WAIT))
        self.extend_every = self._extend_every = min(_EXTEND_EVERY, shortest / 3e9)
        self._pulls.aim(
            f"{self._api.prefix}CONSUMER.MSG.NEXT.{found.stream}.{self._wanted.durable}",
            maximum_batch=config.get("max_batch") or 0,
            maximum_bytes=config.get("max_bytes") or 0,
        )
        self._prefix = 0
        self._ready = True

    # Fetching

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """At least one delivery within the credit; `[]` only when draining."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._connection.lost is not None:
                raise self._connection.lost
            # Asked before what has arrived is decoded: the server works meanwhile.
            if not self._closing:
                self._pull(credit)
            while self._pulls.tap is not None and self._pulls.tap.messages:
                batch = self._take(credit)
                if batch:
                    return batch
            if self._closing:
                return []
            # Again: a state may have said that a pull has ended.
            self._pull(credit)
            waiting = self._waiting = asyncio.get_running_loop().create_future()
            try:
                await waiting
            finally:
                self._waiting = None

    def ask(self, credit: Credit) -> None:
        """The credit has grown while a fetch waits."""
        if self._waiting is not None and not self._closing:
            self._pull(credit)

    def _wake(self) -> None:
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _arrived(self) -> None:
        """A read brought messages or states for us."""
        waiting = self._waiting
        if waiting is not None:
            if not waiting.done():
                waiting.set_result(None)
        else:
            self._pulls.look()

    def _take(self, credit: Credit) -> list[JetStreamDelivery]:
        """Decode what has arrived, within the credit, a batch at a time."""
        tap = self._pulls.tap
        messages = self._pulls.take(min(credit.items, self._batch))
        batch: list[JetStreamDelivery] = []
        size = 0
        room = credit.bytes
        incarnation = self._incarnation
        prefix = self._prefix
        reply = b""
        for position, (subject, reply_to, headers, body) in enumerate(messages):
            if not reply_to:
                self._pulls.state(headers)
                continue
            bytes_ = len(headers) + len(body) + len(subject)
            if size + bytes_ > room and batch:
                assert tap is not None
                tap.messages[:0] = messages[position:]
                break
            reply = reply_to
            if not prefix:
                prefix = self._prefix = prefix_of(reply)
            error = None
            event = None
            try:
                event = decode(headers, body)
                if event is None:
                    event = self._plain(subject, reply, headers, body)
            except InvalidEvent as found:
                error = found
            delivery = JetStreamDelivery(self, event, bytes_, error, reply[prefix : prefix + 2] != b"1.")
            delivery.subject = subject
            delivery.reply = reply
            delivery.headers = headers
            delivery.body = body
            delivery.incarnation = incarnation
            batch.append(delivery)
            size += bytes_
        if batch:
            self._standing.last_reply = reply
            self._pulls.took(len(batch), size)
            self._standing.detail = ""
        return batch

    def _plain(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> Event:
        """The event of a message that is no CloudEvent."""
        sequence, _ = numbers(reply, self._prefix)
        return plain(subject, headers, body, self._incarnation.source, str(sequence), self._binding.wants_bytes)

    def _pull(self, credit: Credit) -> None:
        """Ask for what the credit allows and is not asked for yet."""
        if self._ready:
            self._pulls.ask(credit)

    def _claim(self) -> dict[str, str]:
        """What a pull says about its owner; nothing here, all replicas share."""
        return {}

    def _displaced(self, description: str) -> None:
        """Another owner is pinned; only a keyed source has any."""
        self._recover(f"the consumer has an owner: {description}")

    # Settling

    def settle(self, delivery: Any, outcome: Outcome) -> None:
        """Queue how a delivery ended."""
        if delivery.voided is not None or delivery.incarnation is not self._incarnation:
            return
        kind = outcome.kind
        acks = self._acks
        if kind == "ack" or kind == "drop":
            self.acknowledge((delivery,))
        elif kind == "retry":
            acks.nak(delivery, max(outcome.delay, 0.0))
        elif kind == "dead":
            acks.term(delivery)
        else:
            acks.nak(delivery, 0.0)

    def acknowledge(self, deliveries: Sequence[JetStreamDelivery]) -> None:
        """Queue the acks of these."""
        current = self._incarnation
        self._acks.done += [one for one in deliveries if one.voided is None and one.incarnation is current]
        self._acks.schedule()

    async def flush(self) -> Sequence[Delivery]:
        """All settled so far was processed by the server; returns those for which it did not prove it in 5 s."""
        return await self._acks.flush(_FLUSH_WITHIN)

    async def extend(self, deliveries: Sequence[Any]) -> None:
        """Renew the time to acknowledge."""
        self._acks.extend([delivery.reply for delivery in deliveries if delivery.incarnation is self._incarnation])

    # Health

    def progress(self) -> Progress:
        """Where this source stands."""
        connection = self._connection
        detail = self._standing.detail
        if not connection.is_connected:
            detail = f"not connected to {self._broker.url}: {connection.trouble or 'reconnecting'}"
        lag, seconds = self._standing.lag()
        return Progress(
            connected=connection.is_connected,
            lag_events=lag,
            lag_seconds=seconds,
            last_progress=self._pulls.window.heard,
            owner=None,
            reconnects=connection.reconnects,
            expired=self._standing.expired,
            detail=detail,
        )

    # What happens seldom

    def _connected(self) -> None:
        self._acks.again()
        if self._ready:
            self._pulls.renew()
            self._wake()

    def _disconnected(self) -> None:
        self._pulls.window.reset()
        self._wake()

    async def _tend(self) -> None:
        """Once a second: look after pulls, proofs, deadlines of what nobody has fetched yet, and the server's state."""
        loop = asyncio.get_running_loop()
        looked = extended = loop.time()
        while True:
            self._attend.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(1.0, self._extend_every)):
                    await self._attend.wait()
            now = loop.time()
            if not self._connection.is_connected:
                continue
            try:
                self._acks.barrier()
                if self._ready and self._pulls.silent(now):
                    self._recover("no heartbeat of an open pull")
                if now - extended >= self._extend_every:
                    extended = now
                    self._keep()
                await self._watch(now)
                if now - looked >= _LOOK_EVERY and self._ready:
                    looked = now
                    await self._look()
            except (Silent, ApiError) as error:
                log.debug("%s: %s", self.name, error)
            except HeadraceError as error:
                log.warning("%s: looked after again in a second: %s", self.name, error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """What looks after this source ended: by a defect, unless it was told to."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._recovered(error)

    def _keep(self) -> None:
        """Extend what has arrived and is not fetched yet."""
        self._acks.extend(self._pulls.untaken())

    async def _watch(self, now: float) -> None:
        """A keyed source looks after its ownership here."""

    async def _look(self) -> None:
        """Read the consumer's and the stream's state: floor, lag, unread events that the server discarded."""
        info = await self._api.consumer(self._incarnation.stream, self._wanted.durable)
        if info is None:
            self._recover("the consumer is gone")
            return
        stream = await self._api.stream(self._incarnation.stream)
        if stream is None or incarnation(stream) != self._incarnation:
            self._recover("the stream was deleted or created anew")
            return
        self._standing.look(stream, info)

    def _recover(self, why: str) -> None:
        """Look what has become of the consumer, restore it, pull again."""
        if self._recovery.running or self._closing:
            return
        self._ready = False
        self._pulls.window.reset()
        self._recovery.begin(why)

    def _recovered(self, error: BaseException | None) -> None:
        # What has failed for good stays so, whatever else is in order again.
        self._failure = self._failure or error
        self._wake()

    async def _restored(self) -> None:
        found = self._incarnation
        info = await self._api.consumer(found.stream, self._wanted.durable)
        stream = await self._api.stream(found.stream)
        if info is None or stream is None or incarnation(stream) != found:
            stream = await self._locate()
            if incarnation(stream) == found:
                log.error(
                    "%s: consumer %s was deleted; created again at sequence %d",
                    self.name,
                    self._wanted.durable,
                    self._standing.floor + 1,
                )
                info = await consumers.create(self._api, found.stream, self._wanted.config_from(self._standing.floor))
            else:
                log.error(
                    "%s: stream %s is another one than before; reading it from its start", self.name, found.stream
                )
                info = await self._ensure(stream)
                self._pulls.forget()
                self._lost_stream()
        self._adopt(stream, info)

    def _lost_stream(self) -> None:
        """The stream that our deliveries come from is gone; a keyed source gives them up."""

    # Closing

    async def close(self) -> None:
        """Give back what was never handed over, and let go."""
        self._closing = True
        self._wake()
        if self._tending is not None:
            self._tending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._tending
        await self._recovery.close()
        for calls, call in (
            (self._connection.on_connect, self._connected),
            (self._connection.on_disconnect, self._disconnected),
        ):
            if call in calls:
                calls.remove(call)
        self._give_back(self._pulls.forget())
        await self._acks.flush(1.0)

    def _give_back(self, replies: list[bytes]) -> None:
        if replies:
            self._connection.written(b"".join(publication(reply, b"", b"", b"-NAK") for reply in replies))
