"""A core NATS subject as a source: at most once. What comes faster than it is handled, or while nobody listens, is gone.

A message with a reply subject is a request: the handler's outcome goes back to it, a returned event in binary mode, a failure
as an error header.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from headrace.cloudevents.nats import binary
from headrace.engine.delivery import Delivery, Original
from headrace.engine.source import Credit, Progress
from headrace.errors import HeadraceError, InvalidEvent, Reject, RetryAfter, words
from headrace.nats.blocks import decode
from headrace.nats.message import original_headers, plain
from headrace.nats.publisher import header_block
from headrace.nats.requests import Silent
from headrace.nats.wire import Tap, publication

if TYPE_CHECKING:
    from headrace.engine.broker import Binding
    from headrace.engine.delivery import Outcome
    from headrace.nats.broker import NatsBroker
    from headrace.nats.declarations import Subject

__all__ = ["ERROR_HEADER", "SubjectSource"]

log = logging.getLogger("headrace.nats")

#: The headers of an answer that is none: what went wrong, and an HTTP-like code, as NATS services say it (ADR-32).
ERROR_HEADER: Final = "Nats-Service-Error"
CODE_HEADER: Final = "Nats-Service-Error-Code"
#: Messages and bytes that wait at most; the oldest beyond them are lost.
_WAITING: Final = 16384
_WAITING_BYTES: Final = 64 * 1024 * 1024


class SubjectDelivery(Delivery):
    """One core message."""

    __slots__ = ("answers", "body", "headers", "reply", "subject")

    subject: bytes
    reply: bytes
    headers: bytes
    body: bytes
    answers: bool

    @property
    def metadata(self) -> Mapping[str, str | int | float]:
        """``subject``, and ``reply`` where a sender waits."""
        found: dict[str, str | int | float] = {"subject": self.subject.decode("utf-8", "replace")}
        if self.reply:
            found["reply"] = self.reply.decode("utf-8", "replace")
        return found

    def original(self) -> Original:
        return Original(original_headers(self.headers), self.body)


class SubjectSource:
    """Receives a subject in a queue group. There is nothing to acknowledge and nothing comes twice."""

    keeps_order = True
    extend_every: float | None = None

    def __init__(self, broker: NatsBroker, binding: Binding, declared: Subject) -> None:
        self.name = declared.name
        self._broker = broker
        self._connection = broker.connection
        self._binding = binding
        self._subject = declared.subject
        self._queue = binding.durable if declared.queue is None else declared.queue
        self._tap: Tap | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._closing = False
        self._lost = 0
        self._heard = 0.0

    async def open(self) -> None:
        """Subscribe; a round trip proves that the server knows it.

        Raises:
            ConnectionFailed: the server cannot be reached.
        """
        await self._broker.open()
        self._tap = self._connection.tap(self._subject, self._arrived, queue=self._queue)
        self._connection.on_disconnect.append(self._wake)
        log.info("%s: at most once: what arrives while nobody listens is lost", self.name)
        try:
            await self._connection.round_trip()
        except Silent as error:
            log.warning("%s: %s", self.name, error)

    def _arrived(self) -> None:
        tap = self._tap
        assert tap is not None
        self._heard = asyncio.get_running_loop().time()
        messages = tap.messages
        if len(messages) > _WAITING or (
            len(messages) > 256 and sum(len(message[3]) for message in messages) > _WAITING_BYTES
        ):
            # At most once: the oldest go, and it is counted and said.
            lost = len(messages) - len(messages) // 2
            del messages[:lost]
            self._lost += lost
            log.error("%s: %d messages came faster than they are handled and are lost", self.name, lost)
        self._wake()

    def _wake(self) -> None:
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """What has arrived, within the credit; `[]` only when draining."""
        while True:
            if self._connection.lost is not None:
                raise self._connection.lost
            if self._tap is not None and self._tap.messages:
                return self._take(credit)
            if self._closing:
                return []
            waiting = self._waiting = asyncio.get_running_loop().create_future()
            try:
                await waiting
            finally:
                self._waiting = None

    def _take(self, credit: Credit) -> list[Delivery]:
        assert self._tap is not None
        messages = self._tap.messages
        batch: list[Delivery] = []
        size = 0
        for subject, reply, headers, body in messages[: credit.items]:
            bytes_ = len(headers) + len(body) + len(subject)
            if batch and size + bytes_ > credit.bytes:
                break
            event = error = None
            try:
                event = decode(headers, body)
                if event is None:
                    source = f"nats-core:{self._subject}"
                    event = plain(subject, headers, body, source, str(uuid.uuid4()), self._binding.wants_bytes)
            except InvalidEvent as found:
                error = found
            delivery = SubjectDelivery(self, event, bytes_, error)
            delivery.subject, delivery.reply, delivery.headers, delivery.body = subject, reply, headers, body
            delivery.answers = bool(reply)
            batch.append(delivery)
            size += bytes_
        del messages[: len(batch)]
        return batch

    def settle(self, delivery: Any, outcome: Outcome) -> None:
        """Answer the sender, if one waits."""
        reply = delivery.reply
        if not reply or delivery.voided is not None:
            return
        body = b""
        if outcome.error is not None or outcome.kind in ("dead", "retry", "hand_back"):
            headers = header_block(_failure(outcome))
        elif outcome.result is not None:
            try:
                pairs, body = binary(outcome.result)
                headers = header_block(pairs)
            except InvalidEvent as error:
                headers = header_block([(ERROR_HEADER, str(error)[:500]), (CODE_HEADER, "500")])
        else:
            headers = b""
        if len(headers) + len(body) > self._connection.max_payload:
            text = f"the answer of {len(body)} bytes is larger than the server takes"
            headers, body = header_block([(ERROR_HEADER, text), (CODE_HEADER, "500")]), b""
        if not self._connection.written(publication(reply, b"", headers, body)):
            log.warning("%s: an answer was lost: not connected", self.name)

    async def flush(self) -> Sequence[Delivery]:
        """Answers written so far have been read by the server, where it can be reached; nothing comes again."""
        try:
            await self._connection.round_trip()
        except Silent as error:
            log.debug("%s: %s", self.name, error)
        return ()

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing expires."""

    async def close(self) -> None:
        """Unsubscribe; requests that were never handed over are answered with an error."""
        self._closing = True
        self._wake()
        if self._wake in self._connection.on_disconnect:
            self._connection.on_disconnect.remove(self._wake)
        if self._tap is not None:
            tap, self._tap = self._tap, None
            self._connection.untap(tap)
            block = header_block([(ERROR_HEADER, "the service is stopping; ask again"), (CODE_HEADER, "503")])
            for _, reply, _, _ in tap.messages:
                if reply:
                    self._connection.written(publication(reply, b"", block, b""))

    def progress(self) -> Progress:
        """Where this source stands."""
        connection = self._connection
        detail = f"{self._lost} messages came faster than they were handled and are lost" if self._lost else ""
        if not connection.is_connected:
            detail = f"not connected to {self._broker.url}: {connection.trouble or 'reconnecting'}"
        return Progress(
            connected=connection.is_connected,
            lag_events=len(self._tap.messages) if self._tap is not None else 0,
            last_progress=self._heard,
            reconnects=connection.reconnects,
            expired=self._lost,
            detail=detail,
        )


def _failure(outcome: Outcome) -> list[tuple[str, str]]:
    error = outcome.error
    code = "500"
    if isinstance(error, (Reject, InvalidEvent)):
        code = "422" if isinstance(error, Reject) else "400"
    elif isinstance(error, RetryAfter) or outcome.kind in ("retry", "hand_back"):
        code = "503"
    text = (
        words(error)
        if isinstance(error, HeadraceError)
        else f"{type(error).__name__}: {words(error)}"
        if error
        else "not handled"
    )
    pairs = [(ERROR_HEADER, text[:500] or "failed"), (CODE_HEADER, code)]
    if isinstance(error, RetryAfter):
        pairs.append(("Retry-After", str(round(error.seconds, 3))))
    return pairs
