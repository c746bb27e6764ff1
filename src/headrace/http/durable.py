"""A receiver in durable mode: the event is in the broker before its sender gets 202; the handler reads it from there.

Towards the engine it is the source of the internal channel; towards senders it is a publisher. A sender that goes away
before its 202 may find its event handled all the same: at least once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace.engine.sink import Publication
from headrace.errors import ConfigurationError, HeadraceError, PublishFailed
from headrace.http.answers import ACCEPTED, Answer, Refused
from headrace.http.grants import Grants
from headrace.http.measures import RequestMeasures
from headrace.http.request import Headers, Lifeline, Receive, Scope, Send, exchange
from headrace.http.source import FULL_RETRY_AFTER, HEADER_BYTES

if TYPE_CHECKING:
    from headrace.engine.broker import Binding
    from headrace.engine.delivery import Delivery, Outcome
    from headrace.engine.source import Credit, Progress
    from headrace.event import Event
    from headrace.http.receiver import Receiver

__all__ = ["DurableSource", "ingress_channel"]


def ingress_channel(app: str, handler: str) -> str:
    """The internal channel in which a durable receiver stores what it accepted."""
    return f"headrace.{app}.{handler}.ingress"


class DurableSource:
    """Implements `headrace.engine.source.Source` by the source of the internal channel.

    Raises:
        ConfigurationError: the app has no broker that could store anything.
    """

    def __init__(self, receiver: Receiver, binding: Binding) -> None:
        broker = binding.broker
        if broker is None:
            raise ConfigurationError(
                f'handler {binding.handler!r}: Receiver({receiver.path!r}, mode="durable") stores events in the app\'s '
                'broker, and none is configured; set HEADRACE_BROKER, or use mode="sync"'
            )
        self.receiver = receiver
        self.name = receiver.name
        self.path = receiver.path
        self.requests = RequestMeasures()
        self.grants = Grants(receiver)
        channel = ingress_channel(binding.app, binding.handler)
        self.channel = broker.channel(channel, binding)
        self._sink = broker.sink(channel)
        self.keeps_order = self.channel.keeps_order
        self.extend_every = self.channel.extend_every
        # What only some channels have: the record key as the lane's key (Kafka), their count of rebalances, the age of their last poll.
        self.default_key = getattr(self.channel, "default_key", None)
        self._items = binding.prefetch.items + binding.concurrency
        self._bytes = binding.prefetch.bytes
        self._count = 0
        self._size = 0
        self._accepting = False

    # The engine's side: the channel's source. Its deliveries name that source themselves.

    async def open(self) -> None:
        await self.channel.open()
        await self._sink.open()
        self._accepting = True

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        return await self.channel.fetch(credit)

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        self.channel.settle(delivery, outcome)

    async def flush(self) -> Sequence[Delivery]:
        return await self.channel.flush()

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        await self.channel.extend(deliveries)

    def drain(self) -> None:
        """Take no further request."""
        self._accepting = False

    async def close(self) -> None:
        self.drain()
        await self.grants.close()
        await self.channel.close()

    def progress(self) -> Progress:
        return self.channel.progress()

    @property
    def rebalances(self) -> int | None:
        """How often the channel's partitions were handed out anew; ``None`` where it has none."""
        return getattr(self.channel, "rebalances", None)

    @property
    def poll_age(self) -> float | None:
        """Seconds since the channel's client last polled; ``None`` where it does not poll."""
        return getattr(self.channel, "poll_age", None)

    # The request's side.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request to this path (ASGI 3)."""
        await exchange(self, scope, receive, send)

    async def answer(self, lifeline: Lifeline, headers: Headers, body: bytes, events: Sequence[Event]) -> Answer:
        """Store the events, all confirmed, then 202. Raises `Refused`: 429 full, 503 outage, 422 refused there."""
        if not self._accepting:
            raise Refused(503, "the receiver is stopping; send the event again", retry_after=1)
        size = len(body) + HEADER_BYTES * len(headers)
        if self._count and (self._count + len(events) > self._items or self._size + size > self._bytes):
            raise Refused(
                429, "the receiver holds as much as it may; send the event again", retry_after=FULL_RETRY_AFTER
            )
        self._count += len(events)
        self._size += size
        try:
            results = await self._sink.publish([Publication(event) for event in events])
        except HeadraceError as error:
            results = [error]
        finally:
            self._count -= len(events)
            self._size -= size
        failures = [result for result in results if isinstance(result, Exception)]
        if failures:
            raise _refusal(failures)
        return ACCEPTED


def _refusal(failures: Sequence[Exception]) -> Refused:
    """An outage wins over a refusal: what was stored already is recognised when the batch comes again."""
    final = [failure for failure in failures if isinstance(failure, PublishFailed) and not failure.transient]
    if len(final) == len(failures):
        return Refused(422, f"the broker does not take this event: {final[0]}")
    delays = [failure.retry_after for failure in failures if isinstance(failure, PublishFailed) and failure.retry_after]
    return Refused(503, "the event could not be stored; send it again", retry_after=max(delays, default=1.0))
