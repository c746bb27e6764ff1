"""One commit as the client makes it: what is sent, and which partitions of it were refused. On the poll thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from headrace.kafka.admin import Where
from headrace.kafka.faults import code_of

__all__ = ["EVERY", "METADATA_TOO_LARGE", "Commit", "commit_all", "may_commit_later"]

#: Topic, partition, offset and metadata.
Commit = tuple[str, int, int, str]
#: Stands for all partitions of a commit in its errors.
EVERY: Final[Where] = ("", -1)
METADATA_TOO_LARGE: Final = 12
#: Request timed out; the coordinator loads, is away or moved; the group has a new generation that the client learns of in a
#: moment, or is between two; librdkafka waits for the coordinator, timed out or lost its connection.
_LATER: Final = frozenset({7, 14, 15, 16, 22, 27, -180, -185, -195})


def may_commit_later(error: object) -> bool:
    """Whether the same commit may be taken in a moment. A member that was put out never may."""
    return code_of(error) in _LATER


def commit_all(consumer: Any, texts: Sequence[Commit]) -> dict[Where, Any]:
    """On the poll thread: errors by partition."""
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
