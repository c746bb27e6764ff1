"""Replays: a topic for each handler, ``headrace.<app>.<handler>.replay``, that the handler's own app reads."""

from __future__ import annotations

from typing import Final

from headrace.cloudevents.kafka import binary, structured
from headrace.engine.dead_letters import DeadLetter
from headrace.kafka.partition import RECORD_KEY, KafkaDelivery
from headrace.kafka.producer import Record
from headrace.kafka.source import KafkaSource

__all__ = ["ReplaySource", "replay_record", "replay_topic"]

#: The lane that the event had, so that its replay waits in the same one.
_LANE: Final = "headrace-lane"


def replay_topic(app: str, handler: str) -> str:
    """The topic's name."""
    return f"headrace.{app}.{handler}.replay"


def replay_record(letter: DeadLetter) -> Record:
    """A letter's event as its replay carries it. Raises `InvalidEvent` where the letter holds none."""
    event = letter.replayed()
    headers, body = binary(event)
    if body is None:
        headers, body = structured(event)
    lane = letter.key
    if lane is not None:
        headers = [*headers, (_LANE, lane.encode())]
    key = letter.origin.get("record_key")
    if key is not None:
        headers = [*headers, (RECORD_KEY, str(key).encode())]
    return Record(body, (lane or letter.id).encode(), headers)


class ReplaySource(KafkaSource):
    """Reads the replay topic of one handler."""

    @staticmethod
    def default_key(delivery: KafkaDelivery) -> str | None:
        """The lane of the original delivery, where it had one."""
        for name, value in delivery.message.headers() or ():
            if name == _LANE and value:
                return str(value.decode("utf-8", "replace"))
        return None
