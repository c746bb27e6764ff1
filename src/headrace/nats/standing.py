"""Where a consumer stands in its stream, as it was seen last: floor, what waits, and events that left the stream unread."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from headrace.nats.message import facts

if TYPE_CHECKING:
    from headrace.nats.api import Json

__all__ = ["Standing"]

log = logging.getLogger("headrace.nats")


class Standing:
    """Of one source. ``last_reply`` is the reply subject of the newest message that was handed over; ``detail`` one sentence
    for health where something is wrong, else empty."""

    __slots__ = ("_name", "_whole", "delivered", "detail", "expired", "floor", "last_reply", "left")

    def __init__(self, name: str) -> None:
        self._name = name
        self._whole = False
        self.floor = 0
        self.delivered = (0, 0)
        self.left = 0
        self.expired = 0
        self.last_reply = b""
        self.detail = ""

    def adopt(self, stream: Json, info: Json, subject: str) -> None:
        """Begin with this consumer; ``subject`` is its filter, empty for the whole stream."""
        self._whole = not subject or [subject] == stream["config"].get("subjects")
        self.floor = info["ack_floor"]["stream_seq"]
        self.delivered = (info["delivered"]["stream_seq"], info["delivered"]["consumer_seq"])
        self.left = info.get("num_pending", 0)

    def opened(self, stream: Json) -> None:
        """The app was away: what left the stream meanwhile, behind the floor, was never read."""
        lost = stream["state"]["first_seq"] - 1 - self.floor
        if self.floor and lost > 0 and _loses(stream):
            self._count_expired(lost, stream)

    def look(self, stream: Json, info: Json) -> None:
        """Take in the state of both."""
        self.floor = max(self.floor, info["ack_floor"]["stream_seq"])
        before, self.delivered = self.delivered, (info["delivered"]["stream_seq"], info["delivered"]["consumer_seq"])
        first = stream["state"]["first_seq"]
        deliveries = self.delivered[1] - before[1]
        if first - 1 > before[0] and deliveries >= 0 and _loses(stream):
            # A purge moves the consumer along, so the count is of what lay ahead at the last look and never came.
            lost = max(self.delivered[0], first - 1) - before[0] - deliveries
            # What other subjects share of the stream is not known: at most what was unread then.
            lost = lost if self._whole else min(lost, self.left)
            if lost > 0:
                self._count_expired(lost, stream)
        self.left = info.get("num_pending", 0)
        if not self.left:
            self.last_reply = b""

    def lag(self) -> tuple[int, float]:
        """Messages behind the newest one that was handed over, and that one's age in seconds while there are any."""
        if not self.last_reply:
            return self.left, 0.0
        last = facts(self.last_reply)
        return last.left, max(0.0, time.time() - last.time / 1e9) if last.left else 0.0

    def _count_expired(self, count: int, stream: Json) -> None:
        self.expired += count
        about = "" if self._whole else "up to "
        self.detail = (
            f"{about}{count} unread events were discarded by stream {stream['config']['name']} (its limits or a purge); "
            f"it begins at sequence {stream['state']['first_seq']} now"
        )
        log.error("%s: %s", self._name, self.detail)


def _loses(stream: Json) -> bool:
    """Whether messages leave the stream unread: by limits or a purge; a work queue removes what is acknowledged."""
    return bool(stream["config"].get("retention", "limits") == "limits")
