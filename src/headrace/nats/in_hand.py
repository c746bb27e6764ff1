"""What an owner holds of its consumer, and which of it the server delivers again.

What a pinned owner receives carries consecutive consumer sequences, the first after a rewind being 1. A gap means that
something went elsewhere (another owner, a dead connection): nothing behind the gap is handed over before a rewind. After one
everything above the floor comes again, what is still held included.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from headrace.nats.message import facts, numbers

if TYPE_CHECKING:
    from headrace.nats.acks import Acks
    from headrace.nats.message import JetStreamDelivery

__all__ = ["InHand"]

log = logging.getLogger("headrace.nats")

_redelivered: Final = attrgetter("redelivered")


class InHand:
    """That of one consumer.

    Parameters:
        name: the source's, for the log.
        acks: where messages go that were acknowledged unseen.

    Attributes:
        held: what is in the engine's hands, in the order in which it came.
        again: of these, what a rewound consumer has not delivered again yet, by sequence in the stream.
        expected: the consumer sequence of the next message.
        before: sequences in the stream below this one were perhaps delivered to a predecessor.
        skip: sequences in the stream up to this one are finished, whatever is delivered.
    """

    __slots__ = ("_acks", "_name", "again", "before", "expected", "held", "skip")

    def __init__(self, name: str, acks: Acks) -> None:
        self._name = name
        self._acks = acks
        self.held: dict[JetStreamDelivery, None] = {}
        self.again: dict[int, JetStreamDelivery] = {}
        self.expected = self.before = self.skip = 0

    def begin_anew(self) -> None:
        """The consumer was rewound: what is held comes again."""
        self.expected = 1
        self.again = self._by_sequence()

    def let_go(self) -> list[JetStreamDelivery]:
        """Hold nothing any more; what was held."""
        held = list(self.held)
        self.held.clear()
        self.again = {}
        return held

    def receive(self, batch: list[JetStreamDelivery], prefix: int) -> tuple[list[JetStreamDelivery], bool]:
        """What of a batch may be handed over, which is held from now on; and whether it came without a gap.

        ``batch`` is not empty. ``prefix``: where in a reply subject the numbers begin.
        """
        # The server numbers in order what it delivers: the first and the last of a batch speak for all between them.
        expected = self.expected
        self.expected += len(batch)
        sequence, first = numbers(batch[0].reply, prefix)
        last = numbers(batch[-1].reply, prefix)[1] if len(batch) > 1 else first
        whole = first == expected and last == self.expected - 1
        if not whole:
            self._cut_at_gap(batch, expected, prefix)
        if any(map(_redelivered, batch)):
            # The time to acknowledge passed (we stood still): what is in hand comes again without a rewind, too.
            self.again = self._by_sequence()
        if self.again or sequence < self.before or sequence <= self.skip:
            batch = [delivery for delivery in batch if self._is_new(delivery, prefix)]
        self.held |= dict.fromkeys(batch)
        return batch, whole

    def settled(self, deliveries: Iterable[JetStreamDelivery]) -> None:
        """They are held no more; one that is delivered again nevertheless is new then."""
        held = self.held
        for delivery in deliveries:
            if held.pop(delivery, delivery) is None and self.again:
                self.again.pop(facts(delivery.reply).sequence, None)

    def _by_sequence(self) -> dict[int, JetStreamDelivery]:
        return {facts(delivery.reply).sequence: delivery for delivery in self.held}

    def _cut_at_gap(self, batch: list[JetStreamDelivery], expected: int, prefix: int) -> None:
        for position, delivery in enumerate(batch):
            found = numbers(delivery.reply, prefix)[1]
            if found != expected + position:
                log.info(
                    "%s: consumer sequence %d came where %d was expected; rewinding",
                    self._name,
                    found,
                    expected + position,
                )
                del batch[position:]
                return

    def _is_new(self, delivery: JetStreamDelivery, prefix: int) -> bool:
        """After a rewind: what is still in hand, or was acknowledged unseen, is not handed over a second time."""
        sequence, _ = numbers(delivery.reply, prefix)
        known = self.again.pop(sequence, None)
        if known is not None:
            # Acknowledged by the newer reply.
            known.reply = delivery.reply
            return False
        if sequence < self.before:
            delivery.redelivered = True
        if sequence <= self.skip:
            self._acks.done.append(delivery)
            self._acks.schedule()
            return False
        return True
