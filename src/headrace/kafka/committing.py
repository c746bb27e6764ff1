"""Commits as the client makes them: what is sent, and which partitions of it were refused. On the poll thread.

In ordinary running the answer comes to a callback inside a poll, before any message that waits there. A call that waited for
it would keep the thread from polling: in an outage for a minute, and for ever where the client puts the commit off until a
rebalance is over, for which it needs a poll. Only the last word on partitions that go is waited for, in the callback that
takes them away.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Final

from headrace.errors import ConnectionFailed
from headrace.kafka.admin import Where
from headrace.kafka.faults import code_of

__all__ = ["EVERY", "METADATA_TOO_LARGE", "Commit", "Committing", "commit_all", "may_commit_later"]

#: Topic, partition, offset and metadata.
Commit = tuple[str, int, int, str]
#: Stands for all partitions of a commit in its errors.
EVERY: Final[Where] = ("", -1)
METADATA_TOO_LARGE: Final = 12
#: Request timed out; the coordinator loads, is away or moved; the group has a new generation that the client learns of in a
#: moment, or is between two; librdkafka waits for the coordinator, timed out or lost its connection.
_LATER: Final = frozenset({7, 14, 15, 16, 22, 27, -180, -185, -195})


#: Seconds after which an answer is waited for no longer; the next commit says the same and more.
_GIVEN_UP: Final = 30.0


class Committing:
    """The commits of one consumer that are under way. ``name``: for messages."""

    def __init__(self, name: str) -> None:
        self._name = name
        #: What was said (the client answers in an order of its own), who waits, since when.
        self._under_way: list[tuple[frozenset[Commit], Future[dict[Where, Any]], float]] = []

    def __bool__(self) -> bool:
        return bool(self._under_way)

    def begin(self, consumer: Any, texts: Sequence[Commit], answer: Future[dict[Where, Any]]) -> None:
        """Send a commit; the answer is its errors by partition."""
        from confluent_kafka import TopicPartition

        if not answer.set_running_or_notify_cancel():
            return
        if not texts:
            answer.set_result({})
            return
        entry = (frozenset(texts), answer, time.monotonic())
        self._under_way.append(entry)
        try:
            consumer.commit(offsets=[TopicPartition(*text) for text in texts], asynchronous=True)
        except Exception as error:  # noqa: BLE001 - it belongs to who asked
            self._under_way.remove(entry)
            answer.set_result({EVERY: error})

    def on_commit(self, error: Any, partitions: Sequence[Any]) -> None:
        """Called by the client. Answers to others are of commits that somebody waited for by another way."""
        texts = {(tp.topic, tp.partition, tp.offset, tp.metadata or "") for tp in partitions}
        entry = next((entry for entry in self._under_way if entry[0] == texts), None)
        if entry is None:
            return
        self._under_way.remove(entry)
        errors = {(tp.topic, tp.partition): tp.error for tp in partitions if tp.error is not None}
        entry[1].set_result({EVERY: error} if error is not None and not errors else errors)

    def give_up(self, reason: str, *, before: float | None = None) -> None:
        """Wait no longer for those that were begun before a time, by default for any."""
        for entry in list(self._under_way):
            if before is None or entry[2] < before:
                self._under_way.remove(entry)
                entry[1].set_exception(ConnectionFailed(f"{self._name}: {reason}"))

    def give_up_old(self) -> None:
        """Wait no longer for what nothing was heard of for long."""
        if self._under_way:
            self.give_up(f"a commit was not answered for {_GIVEN_UP:g} s", before=time.monotonic() - _GIVEN_UP)


def may_commit_later(error: object) -> bool:
    """Whether the same commit may be taken in a moment. A member that was put out never may."""
    return code_of(error) in _LATER


def commit_all(consumer: Any, texts: Sequence[Commit]) -> dict[Where, Any]:
    """Commit and wait for the answer: errors by partition."""
    from confluent_kafka import KafkaException, TopicPartition

    try:
        answers = consumer.commit(offsets=[TopicPartition(*text) for text in texts], asynchronous=False)
    except KafkaException as error:
        if code_of(error) != METADATA_TOO_LARGE or len(texts) == 1:
            return {EVERY: error}
    else:
        return {(tp.topic, tp.partition): tp.error for tp in answers or () if tp.error is not None}
    # One oversized partition fails the call, though the others were committed: tell them apart.
    errors: dict[Where, Any] = {}
    for text in texts:
        errors.update({text[:2]: error for error in commit_all(consumer, [text]).values()})
    return errors
