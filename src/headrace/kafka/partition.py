"""One assigned partition as the loop sees it, and the delivery that comes from it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from headrace.engine.delivery import Delivery, Original
from headrace.kafka.completed import NO_TOPIC_ID
from headrace.kafka.offsets import Offsets

__all__ = ["RECORD_KEY", "KafkaDelivery", "Partition", "source_uri"]

#: The header of a replay with the key that its record had; its own key is its lane.
RECORD_KEY: Final = "headrace-record-key"

#: Offsets beyond those handed over that a commit announces, at first and at most. See `Record.reached`.
_WINDOW: Final = 1024
_WIDEST_WINDOW: Final = 8192
#: No offset is as high.
_NEVER: Final = 1 << 63


class KafkaDelivery(Delivery):
    """One record. ``message`` is confluent-kafka's; ``token`` completes its offset."""

    __slots__ = ("message", "partition", "token")

    message: Any
    partition: Partition
    token: int

    @property
    def metadata(self) -> Mapping[str, str | int | float]:
        """``topic partition offset``, ``timestamp`` (seconds since the epoch), ``topic_id`` and ``record_key``."""
        partition = self.partition
        facts: dict[str, str | int | float] = {
            "topic": partition.topic,
            "partition": partition.number,
            "offset": self.message.offset(),
        }
        if partition.topic_id != NO_TOPIC_ID:
            facts["topic_id"] = partition.topic_id
        kind, milliseconds = self.message.timestamp()
        if kind:
            facts["timestamp"] = milliseconds / 1000
        key = self.message.key()
        for name, value in self.message.headers() or ():
            if name == RECORD_KEY:
                key = value
        if key is not None:
            facts["record_key"] = key.decode("utf-8", "backslashreplace")
        return facts

    def original(self) -> Original:
        """Headers and value as the broker had them. A header may be null on Kafka; it becomes an empty one."""
        headers = [(name, value or b"") for name, value in self.message.headers() or ()]
        return Original(headers, self.message.value())


def source_uri(topic: str, topic_id: str) -> str:
    """The source of plain records. It names the incarnation, so that a recreated topic's records are no duplicates; never a
    server."""
    return f"kafka:{topic}" if topic_id == NO_TOPIC_ID else f"kafka:{topic}/{topic_id}"


class Partition:
    """Everything about one partition between its assignment and its revocation.

    Attributes:
        topic_id: the incarnation that this state is about.
        partitions: how many the topic had when this one was assigned.
        offsets: what was handed over and what is done.
        open: deliveries by token, from hand-over to settlement, in order.
        announced_by: who wrote the commit that this state begins with; empty where nobody said.
        suspects: offsets below were perhaps delivered by an owner that did not end cleanly.
        limit: offsets below may be handed over: what the last confirmed commit announced and what the map can hold.
        renew_at: the offset at which the next commit is due, so that its answer is there before the limit is reached;
            ``hurried`` since it was.
        waiting: records that came while the limit was reached, in order; ``blocked`` where there are any, ``why`` says
            which limit.
        reached: what the last confirmed commit announced; ``window``: by how much the next one looks ahead.
        dirty: something was settled since the last commit was made.
        tail: the offset after the last record and the end of the log, when it was last read to its end.
        expired: records that retention removed before they were read.
    """

    __slots__ = (
        "_handed",
        "announced_by",
        "blocked",
        "dirty",
        "expired",
        "gone",
        "hurried",
        "key",
        "lane",
        "last",
        "limit",
        "number",
        "offsets",
        "open",
        "partitions",
        "paused",
        "reached",
        "renew_at",
        "source_uri",
        "suspects",
        "tail",
        "topic",
        "topic_id",
        "waiting",
        "why",
        "window",
    )

    def __init__(
        self,
        topic: str,
        number: int,
        *,
        topic_id: str,
        partitions: int,
        offsets: Offsets,
        reached: int,
        announced_by: str = "",
        several_topics: bool = False,
        expired: int = 0,
    ) -> None:
        self.topic = topic
        self.number = number
        self.key = (topic, number)
        self.topic_id = topic_id
        self.partitions = partitions
        self.offsets = offsets
        self.open: dict[int, KafkaDelivery] = {}
        self.announced_by = announced_by
        self.suspects = reached
        self.reached = reached
        self.limit = 0
        self.renew_at = _NEVER
        self.hurried = False
        self.window = _WINDOW
        self.waiting: deque[Any] = deque()
        self.blocked = False
        self.why = ""
        self.paused = False
        self.gone = False
        self.dirty = True
        self.expired = expired
        self.tail = (0, 0)
        #: The last record that was handed over.
        self.last: Any = None
        self.lane = f"{topic}/{number}/" if several_topics else f"{number}/"
        self.source_uri = source_uri(topic, topic_id)
        self._handed = offsets.next
        self.relimit()

    def relimit(self) -> int:
        """Compute the limit anew."""
        ceiling = self.offsets.ceiling()
        limit, self.why = (ceiling, "map") if ceiling <= self.reached else (self.reached, "commit")
        # While records wait, none may pass them.
        self.limit = -1 if self.blocked else limit
        self.renew_at = self.reached - self.window // 2 if self.why == "commit" else _NEVER
        return limit

    def hurry(self) -> None:
        """The next commit is due now: see ``renew_at``."""
        self.renew_at = _NEVER
        self.hurried = self.dirty = True

    def look_ahead(self) -> int:
        """What the next commit announces as ``reached``: the window follows the speed, so that a slow consumer leaves
        few suspects behind and a fast one is not held up. It looks ahead from where the records go on, however wide the gap
        before the one that waits: one that was never announced would never pass."""
        if self.waiting:
            self._handed += self.offsets.skip_to(self.waiting[0].offset())
        handed = self.offsets.next - self._handed
        self._handed = self.offsets.next
        if self.hurried or (self.blocked and self.why == "commit"):
            self.hurried = False
            self.window = min(self.window * 4, _WIDEST_WINDOW)
        elif handed * 4 > self.window:
            self.window = min(max(self.window, handed * 4), _WIDEST_WINDOW)
        elif handed * 16 < self.window:
            self.window = max(self.window // 2, _WINDOW)
        return self.offsets.next + self.window

    def behind(self, end: int) -> int:
        """How many records up to ``end``, an end of the log, are not done; gaps beyond what was handed over count where it is
        not known better."""
        after_last, known_end = self.tail
        if end <= known_end:
            end = min(end, after_last)
        return self.offsets.left(end)

    def oldest(self) -> int:
        """Milliseconds since the epoch of the oldest record that is not done, as far as it is known; 0 where it is not."""
        for delivery in self.open.values():
            return int(delivery.message.timestamp()[1])
        message = self.waiting[0] if self.waiting else self.last
        return 0 if message is None else int(message.timestamp()[1])
