"""Looks after a consumer: how far it is behind, and whether it is alive and does not consume.

A consumer that brings nothing although its partitions hold more is compared with what an independent reader finds at
the same offset: transaction markers and compacted records look like lag and are none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from headrace.kafka.admin import LATEST, Admin, Where
from headrace.kafka.client_log import client_log
from headrace.kafka.faults import text_of
from headrace.kafka.group import Group
from headrace.kafka.partition import Partition

__all__ = ["Watch", "lag"]

log = logging.getLogger("headrace.kafka")

#: Seconds between looks; a consumer is rebuilt after two in which it stood still.
EVERY: Final = 30.0
_PROBE: Final = 10.0


class Watch:
    """``idle``: whether the source waits for the consumer at this moment. ``config`` as the consumer's."""

    def __init__(
        self,
        group: Group,
        partitions: Mapping[Where, Partition],
        admin: Admin,
        config: Mapping[str, Any],
        idle: Callable[[], bool],
        *,
        every: float = EVERY,
    ) -> None:
        self._group = group
        self._partitions = partitions
        self._admin = admin
        self._config = config
        self._idle = idle
        self._every = every
        self._before: dict[Where, int] = {}
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - nobody answers: the client sits an outage out by itself
                log.debug("%s: the watchdog could not look: %s", self._group.name, text_of(error))

    async def _look(self) -> None:
        now: dict[Where, int] = {}
        if self._idle():
            for where, partition in self._partitions.items():
                if not partition.blocked and not partition.paused:
                    now[where] = partition.offsets.next
        still = {where: at for where, at in now.items() if self._before.get(where) == at}
        self._before = now
        if not still:
            return
        ends = await asyncio.to_thread(self._admin.offsets, list(still), LATEST)
        behind = {where: still[where] for where, end in ends.items() if end > still[where]}
        if not behind:
            return
        found = await asyncio.to_thread(self._probe, behind)
        if found is not None and found in self._partitions and self._partitions[found].offsets.next == still[found]:
            log.error(
                "%s: partition %d of %s holds events from offset %d on and the consumer brings none of them",
                self._group.name,
                found[1],
                found[0],
                still[found],
            )
            self._before = {}
            self._group.rebuild()

    def _probe(self, behind: Mapping[Where, int]) -> Where | None:
        """The first of these partitions in which a reader outside the group finds a record."""
        from confluent_kafka import Consumer, TopicPartition

        config = {name: value for name, value in self._config.items() if not name.startswith("group.")}
        config.pop("partition.assignment.strategy", None)
        config.pop("enable.partition.eof", None)
        probe = Consumer({**config, "group.id": "headrace-watchdog", "logger": client_log})
        try:
            probe.assign([TopicPartition(topic, number, at) for (topic, number), at in behind.items()])
            deadline = time.monotonic() + _PROBE
            while time.monotonic() < deadline:
                message = probe.poll(0.5)
                if message is not None and message.error() is None:
                    return str(message.topic()), int(message.partition() or 0)
        finally:
            probe.close()
        return None

    def close(self) -> None:
        """Look no more."""
        self._task.cancel()


def lag(ends: Mapping[Where, int], partitions: Mapping[Where, Partition]) -> tuple[int | None, float | None]:
    """Events that are not done, by the ends of the logs that came with the last fetches, and the age in seconds of the
    oldest of them that is known; ``None`` where no fetch has told yet."""
    events = 0
    oldest = 0
    for where, partition in partitions.items():
        end = ends.get(where, -1)
        if end < 0:
            return None, None
        behind = partition.behind(end)
        events += behind
        stamp = partition.oldest() if behind else 0
        if stamp and (not oldest or stamp < oldest):
            oldest = stamp
    return events, max(0.0, time.time() - oldest / 1000) if oldest else 0.0
