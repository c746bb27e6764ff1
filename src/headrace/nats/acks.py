"""Acknowledgements: written in one batch a loop iteration, proved by a round trip, sent again after an outage.

An ack is a message to a subject and is answered by nobody, so a lost connection loses it in silence. A barrier (an ack of
the kind "in progress", with a reply subject) goes through the same queue of the consumer: its answer proves that every ack
before it has been processed. What no barrier has proved is sent again after a reconnect; acking twice does no harm.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from headrace.nats.wire import publication, status

if TYPE_CHECKING:
    from headrace.nats.client import Connection
    from headrace.nats.message import JetStreamDelivery

__all__ = ["Acks"]

#: Unproved acks after which a barrier is sent without being asked for.
_BARRIER_AT: Final = 1024
_PROGRESS: Final = b"+WPI"


class Acks:
    """The outgoing acks of one consumer. ``done`` may be appended to directly, followed by `schedule`."""

    __slots__ = ("_barriers", "_connection", "_others", "_sent", "_waiting", "done", "scheduled")

    def __init__(self, connection: Connection) -> None:
        self.done: list[JetStreamDelivery] = []
        self._others: list[bytes] = []
        self._sent: list[JetStreamDelivery] = []
        self._barriers: list[list[JetStreamDelivery]] = []
        self._waiting: list[asyncio.Future[None]] = []
        self.scheduled = False
        self._connection = connection

    def schedule(self) -> None:
        """Write what is queued at the end of this iteration of the loop."""
        if not self.scheduled:
            self.scheduled = True
            asyncio.get_running_loop().call_soon(self.write)

    def nak(self, delivery: JetStreamDelivery, delay: float) -> None:
        """Deliver again after ``delay`` seconds: always spelled, since a plain nak ignores the consumer's back-off list."""
        body = b'-NAK {"delay": %d}' % round(delay * 1e9) if delay > 0 else b"-NAK"
        self._others.append(publication(delivery.reply, b"", b"", body))
        self.schedule()

    def term(self, delivery: JetStreamDelivery) -> None:
        """Never deliver again."""
        self._others.append(publication(delivery.reply, b"", b"", b"+TERM"))
        self._sent.append(delivery)
        self.schedule()

    def extend(self, replies: list[bytes]) -> None:
        """Still in progress: the time to acknowledge begins anew. Of no use later, so not queued over an outage."""
        if replies:
            self._connection.written(b"PUB " + b" 4\r\n+WPI\r\nPUB ".join(replies) + b" 4\r\n+WPI\r\n")

    def write(self) -> None:
        """Write what is queued, if there is a connection."""
        self.scheduled = False
        done, others = self.done, self._others
        data = b""
        if done:
            data = b"PUB " + b" 0\r\n\r\nPUB ".join([delivery.reply for delivery in done]) + b" 0\r\n\r\n"
        if others:
            data += b"".join(others)
        if not data or not self._connection.written(data):
            return
        self._sent += done
        self.done = []
        self._others = []
        if len(self._sent) >= _BARRIER_AT and len(self._barriers) < 4:
            self.barrier()

    def barrier(self) -> None:
        """Ask for proof of what has been written so far."""
        sent = self._sent
        if not sent:
            return
        reply = self._connection.requests.reply_to(lambda headers, _: self._proved(sent, headers))
        if not self._connection.written(publication(sent[-1].reply, reply, b"", _PROGRESS)):
            self._connection.requests.forget(reply)
            return
        self._sent = []
        self._barriers.append(sent)

    def _proved(self, batch: list[JetStreamDelivery], headers: bytes | None) -> None:
        for position, waiting in enumerate(self._barriers):
            if waiting is batch:
                del self._barriers[position]
                break
        else:
            return
        if headers is None:
            # The connection was lost first: to be sent again.
            self._sent[:0] = batch
        elif status(headers) is not None:
            # Nobody there: the consumer is gone, and these messages come again from the one that follows it.
            return
        if not self._barriers:
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)
            self._waiting.clear()

    def again(self) -> None:
        """After a reconnect: send everything unproved once more."""
        for batch in reversed(self._barriers):
            self._sent[:0] = batch
        self._barriers.clear()
        unproved, self._sent = self._sent, []
        self.done[:0] = unproved
        self.write()

    def clear(self) -> None:
        """Forget everything: the consumer that these belong to is gone."""
        self.done.clear()
        self._others.clear()
        self._sent.clear()
        self._barriers.clear()

    async def flush(self, within: float) -> list[JetStreamDelivery]:
        """Write and wait for the proof; what is not proved after ``within`` seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        while True:
            self.write()
            self.barrier()
            if not (self._barriers or self._sent or self.done):
                return []
            future: asyncio.Future[None] = loop.create_future()
            self._waiting.append(future)
            left = end - loop.time()
            if left <= 0:
                break
            # In an outage nothing wakes us: look again now and then.
            await asyncio.wait([future], timeout=min(left, 0.5))
        return [delivery for batch in self._barriers for delivery in batch] + self._sent + self.done
