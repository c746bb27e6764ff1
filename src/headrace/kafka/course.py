"""Whether the partitions of a member are read from where they should be, and where their logs end. On the poll thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from headrace.errors import HeadraceError
from headrace.kafka.admin import Where
from headrace.kafka.faults import fatal_for_consumer, text_of
from headrace.kafka.ownership import Ownership

__all__ = ["Course"]

log = logging.getLogger("headrace.kafka")


class Course:
    """That of one member. ``group``: its id. ``tell``: a sentence for people."""

    def __init__(self, name: str, ownership: Ownership, *, group: str, tell: Callable[[str], None]) -> None:
        #: The next offset of each partition's log, a second old at most.
        self.ends: dict[Where, int] = {}
        self._name = name
        self._ownership = ownership
        self._group = group
        self._tell = tell
        #: Partitions that are not read from where they were to be; tried until it is known from where.
        self._astray: set[Where] = set()

    def look(self, consumer: Any) -> None:
        """Called once a second or so."""
        self._look_at_ends(consumer)
        self._set_right(consumer)

    def lost(self, consumer: Any, where: Where) -> None:
        """A log does not have the offset that was asked for."""
        self._astray.add(where)
        self._set_right(consumer)

    def _look_at_ends(self, consumer: Any) -> None:
        """Where the logs end, as the last fetches told; feeds the lag."""
        from confluent_kafka import KafkaException, TopicPartition

        try:
            self.ends = {
                where: int(consumer.get_watermark_offsets(TopicPartition(*where), cached=True)[1])
                for where in list(self._ownership.assigned)
            }
        except KafkaException as error:
            log.debug("%s: %s", self._name, text_of(error))

    def _set_right(self, consumer: Any) -> None:
        """Find anew where to read partitions from."""
        for where in list(self._astray):
            try:
                self._ownership.restart(consumer, where)
            except HeadraceError:
                raise
            except Exception as error:
                fatal = fatal_for_consumer(error, where=self._name, group=self._group)
                if fatal is not None:
                    raise fatal from error
                self._tell(f"where partition {where[1]} begins could not be asked: {text_of(error)}")
                self._ownership.ask_anew()
                return
            self._astray.discard(where)
