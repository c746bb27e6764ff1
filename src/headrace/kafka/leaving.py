"""What a consumer does before it is closed, so that its group does not wait for it. On the poll thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from headrace.kafka.faults import text_of
from headrace.kafka.ownership import Ownership

__all__ = ["say_farewell"]

log = logging.getLogger("headrace.kafka")

#: Seconds that leaving waits for a join under way.
_JOIN_LIMIT: Final = 8.0


def say_farewell(consumer: Any, topic: str, *, ownership: Ownership, joined: Callable[[], bool], name: str) -> None:
    """Cases in which closing a librdkafka consumer would not take the member out of its group, which would then wait for
    it at the rebalance that is under way, or at the next, until the session times out.

    While a join is under way: the broker answers the requests of a connection in turn, and a join only when all members
    have come; behind it the farewell is given up after some seconds. So a first join is waited for, and a question to
    the coordinator waits for a later one. Without partitions a classic member that is closed sends no farewell; one that
    unsubscribes before does.
    """
    from confluent_kafka import KafkaException, TopicPartition

    end = time.monotonic() + _JOIN_LIMIT
    while not joined() and time.monotonic() < end:
        consumer.poll(0.05)
    try:
        left = max(0.1, end - time.monotonic())
        consumer.committed([TopicPartition(topic, 0)], timeout=left)
        if not ownership.all:
            consumer.unsubscribe()
    except KafkaException as error:
        log.debug("%s: leaving without the coordinator's answer: %s", name, text_of(error))
