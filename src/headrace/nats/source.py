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

import msgspec

from headrace.engine.source import Credit, Progress
from headrace.errors import ConnectionFailed, HeadraceError, InvalidEvent
from headrace.nats import consumers
from headrace.nats.acks import Acks
from headrace.nats.api import ApiError, nanoseconds
from headrace.nats.blocks import decode
from headrace.nats.message import Incarnation, JetStreamDelivery, numbers, plain, prefix_of
from headrace.nats.pulls import EXPIRES, HEARTBEAT, Window
from headrace.nats.requests import Silent
from headrace.nats.standing import Standing
from headrace.nats.streams import incarnation
from headrace.nats.wire import Tap, publication, status

if TYPE_CHECKING:
    from headrace.engine.broker import Binding
    from headrace.engine.delivery import Delivery, Outcome
    from headrace.event import Event
    from headrace.nats.api import Api, Json
    from headrace.nats.broker import NatsBroker
    from headrace.nats.consumers import Wanted

__all__ = ["JetStreamSource"]

log = logging.getLogger("headrace.nats")

_encode = msgspec.json.Encoder().encode
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
        self._window = Window()
        self._incarnation = Incarnation("", "")
        self._prefix = 0
        self._tap: Tap | None = None
        self._next_subject = b""
        self._ready = False
        self._closing = False
        self._failure: HeadraceError | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._standing = Standing(name)
        self._recovering: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        self._attend = asyncio.Event()
        self._extend_every = _EXTEND_EVERY
        self._oversize = False
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
            except (Silent, ApiError) as error:
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
        self._window.maximum_batch = config.get("max_batch") or 0
        self._window.maximum_bytes = config.get("max_bytes") or 0
        self._next_subject = f"{self._api.prefix}CONSUMER.MSG.NEXT.{found.stream}.{self._wanted.durable}".encode()
        self._prefix = 0
        self._retap()
        self._ready = True

    def _retap(self) -> None:
        """A new reply subject for pulls: those that are open die with the old one. What it has received is kept."""
        kept: list[tuple[bytes, bytes, bytes, bytes]] = []
        if self._tap is not None:
            kept = [message for message in self._tap.messages if message[1]]
            self._connection.untap(self._tap)
        self._tap = self._connection.tap(self._connection.new_inbox(), self._arrived)
        self._tap.messages = kept
        self._window.reset()
        if kept:
            self._window.sent(len(kept), sum(len(message[2]) + len(message[3]) for message in kept))
        self._window.heard = asyncio.get_running_loop().time()

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
            while self._tap is not None and self._tap.messages:
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
        elif self._tap is not None and self._tap.messages and not self._tap.messages[-1][1]:
            # Nobody fetches, but a state may say that we have lost what we hold.
            states = [message for message in self._tap.messages if not message[1]]
            self._tap.messages = [message for message in self._tap.messages if message[1]]
            for _, _, headers, _ in states:
                self._state(headers)

    def _take(self, credit: Credit) -> list[JetStreamDelivery]:
        """Decode what has arrived, within the credit, a batch at a time."""
        assert self._tap is not None
        tap = self._tap
        messages = tap.messages
        limit = min(credit.items, self._batch)
        if len(messages) > limit:
            tap.messages = messages[limit:]
            del messages[limit:]
        else:
            tap.messages = []
        batch: list[JetStreamDelivery] = []
        size = 0
        room = credit.bytes
        incarnation = self._incarnation
        prefix = self._prefix
        reply = b""
        for position, (subject, reply_to, headers, body) in enumerate(messages):
            if not reply_to:
                self._state(headers)
                continue
            bytes_ = len(headers) + len(body) + len(subject)
            if size + bytes_ > room and batch:
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
            self._window.took(len(batch), size)
            self._window.heard = asyncio.get_running_loop().time()
            self._oversize = False
            self._standing.detail = ""
        return batch

    def _plain(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> Event:
        """The event of a message that is no CloudEvent."""
        sequence, _ = numbers(reply, self._prefix)
        return plain(subject, headers, body, self._incarnation.source, str(sequence), self._binding.wants_bytes)

    def _pull(self, credit: Credit) -> None:
        """Ask for what the credit allows and is not asked for yet."""
        if not self._ready:
            return
        if self._oversize and not self._window.items:
            # The next message is larger than the bytes that are free: it alone, or it could never pass.
            self._request(1, 0)
            self._oversize = False
            return
        wanted = self._window.next(credit)
        if wanted is not None:
            self._request(*wanted)

    def _request(self, items: int, size: int) -> None:
        request: dict[str, Any] = {
            "batch": items,
            "expires": round(EXPIRES * 1e9),
            "idle_heartbeat": round(HEARTBEAT * 1e9),
            **self._claim(),
        }
        if size:
            request["max_bytes"] = size
        assert self._tap is not None
        if self._connection.written(
            publication(self._next_subject, self._tap._subject.encode(), b"", _encode(request))
        ):
            self._window.sent(items, size)

    def _claim(self) -> dict[str, str]:
        """What a pull says about its owner; nothing here, all replicas share."""
        return {}

    def _state(self, headers: bytes) -> None:
        """The server says how a pull stands."""
        self._window.heard = asyncio.get_running_loop().time()
        found = status(headers)
        if found is None or found[0] == 100:
            return
        code, description, more = found
        left = int(more.get("Nats-Pending-Messages", "0"))
        if code == 503:
            self._recover("the consumer does not answer")
        elif code == 423:
            self._window.ended(left)
            self._displaced(description)
        elif code == 409 and "deleted" in description.lower():
            self._recover("the consumer was deleted")
        elif code == 409 and ("leadership" in description.lower() or "shutdown" in description.lower()):
            self._recover(description.lower())
        elif code == 409 and "maxbytes" in description.lower().replace(" ", ""):
            self._window.ended(left)
            self._window.average *= 2
            self._oversize = not self._window.items
        elif code in (404, 408) or (code == 409 and "batch completed" in description.lower()):
            self._window.ended(left)
        else:
            self._window.ended(left)
            self._recover(f"the server answered {code} {description}")

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
            acks.done.append(delivery)
            acks.schedule()
        elif kind == "retry":
            acks.nak(delivery, max(outcome.delay, 0.0))
        elif kind == "dead":
            acks.term(delivery)
        else:
            acks.nak(delivery, 0.0)

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
            last_progress=self._window.heard,
            owner=None,
            reconnects=connection.reconnects,
            expired=self._standing.expired,
            detail=detail,
        )

    # What happens seldom

    def _connected(self) -> None:
        self._acks.again()
        if self._ready:
            self._retap()
            self._wake()

    def _disconnected(self) -> None:
        self._window.reset()
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
                if self._window.items and self._ready and now - self._window.heard > 2.5 * HEARTBEAT:
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

    def _keep(self) -> None:
        """Extend what has arrived and is not fetched yet."""
        if self._tap is not None:
            self._acks.extend([message[1] for message in self._tap.messages if message[1]])

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
        if self._recovering is not None or self._closing:
            return
        self._ready = False
        self._window.reset()
        log.warning("%s: %s; looking after it", self.name, why)
        self._recovering = asyncio.get_running_loop().create_task(self._restore(why))

    async def _restore(self, why: str) -> None:
        delay = 0.05
        patience = 1.0
        try:
            while not self._closing:
                try:
                    # A question that a dying leader swallowed is asked again soon.
                    async with asyncio.timeout(patience):
                        await self._restored()
                    self._standing.detail = ""
                    return
                except (Silent, ApiError, TimeoutError) as error:
                    self._standing.detail = f"{why}; {str(error) or 'JetStream does not answer'}"
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, 5.0)
                    patience = min(patience * 1.5, 20.0)
        except HeadraceError as error:
            self._failure = error
        finally:
            self._recovering = None
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
                info = await consumers.create(self._api, found.stream, self._config_from(self._standing.floor))
            else:
                log.error(
                    "%s: stream %s is another one than before; reading it from its start", self.name, found.stream
                )
                info = await self._ensure(stream)
                if self._tap is not None:
                    self._tap.messages = []
                self._lost_stream()
        self._adopt(stream, info)

    def _config_from(self, floor: int) -> Json:
        config = self._wanted.config()
        if floor:
            config.pop("opt_start_time", None)
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": floor + 1}
        return config

    def _lost_stream(self) -> None:
        """The stream that our deliveries come from is gone; a keyed source gives them up."""

    # Closing

    async def close(self) -> None:
        """Give back what was never handed over, and let go."""
        self._closing = True
        self._wake()
        for task in (self._tending, self._recovering):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        for calls, call in (
            (self._connection.on_connect, self._connected),
            (self._connection.on_disconnect, self._disconnected),
        ):
            if call in calls:
                calls.remove(call)
        if self._tap is not None:
            tap = self._tap
            self._connection.untap(tap)
            self._give_back(tap)
            self._tap = None
        await self._acks.flush(1.0)

    def _give_back(self, tap: Tap) -> None:
        replies = [message[1] for message in tap.messages if message[1]]
        if replies:
            self._connection.written(b"".join(publication(reply, b"", b"", b"-NAK") for reply in replies))
