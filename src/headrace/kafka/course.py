"""Whether the partitions of a member are read from where they should be, where their logs end, and whether anybody answers. On
the poll thread.

A topic that is deleted and created again is the same to librdkafka: it goes on at the old offset, which the new log may
have too, and says nothing. So the cluster is asked for the topic ids now and then; until it has answered, what is read of
the new log passes for the old one: it is handled, its commits are void for they name the old id, and it is read again.

The same question tells an idle topic from brokers that hang: librdkafka waits for them for up to a minute and says nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final

from headrace.errors import HeadraceError
from headrace.kafka.admin import Admin, Where
from headrace.kafka.crossing import Inbox, Told
from headrace.kafka.faults import fatal_for_consumer, is_answer, text_of
from headrace.kafka.ownership import Ownership
from headrace.kafka.partition import Partition
from headrace.kafka.start import is_another

__all__ = ["Course"]

log = logging.getLogger("headrace.kafka")


#: Seconds between questions for the topic ids, and for the answer.
_EVERY: Final = 3.0
_ANSWER: Final = 5.0


class Course:
    """That of one member. ``topics``: names, or one pattern. ``group``: its id."""

    def __init__(
        self, ownership: Ownership, inbox: Inbox, *, admin: Admin, topics: Sequence[str], name: str, group: str
    ) -> None:
        #: Seconds in which no broker answered and none brought anything, at the last look; since when.
        self.silent = 0.0
        self._since = 0.0
        self._topics = frozenset(topic for topic in topics if not topic.startswith("^"))
        #: The next offset of each partition's log, a second old at most.
        self.ends: dict[Where, int] = {}
        self._name = name
        self._ownership = ownership
        self._group = group
        self._inbox = inbox
        self._admin = admin
        #: Partitions that are not read from where they were to be; tried until it is known from where.
        self._astray: set[Where] = set()
        #: The question for the topic ids that is under way; when the next one is due; topics that were not there.
        self._asked: Mapping[str, Future[Any]] = {}
        #: Whom it is about: what was assigned or set right since then may know better than the answer.
        self._about: dict[Where, Partition] = {}
        self._due = 0.0
        self._missing: set[str] = set()

    def look(self, consumer: Any) -> None:
        """Called once a second or so."""
        self._look_at_ends(consumer)
        self._look_at_ids()
        self._set_right(consumer)

    def lost(self, consumer: Any, where: Where) -> None:
        """A log does not have the offset that was asked for."""
        self._astray.add(where)
        self._set_right(consumer)

    def heard(self) -> None:
        """A broker brought something."""
        self.silent = self._since = 0.0

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

    def _look_at_ids(self) -> None:
        """Ask for the topic ids, or hear the answer; nothing waits."""
        now = time.monotonic()
        topics = self._topics.union(topic for topic, _ in self._ownership.assigned)
        if not self._asked:
            if topics and now >= self._due:
                self._due = now + _EVERY
                self._since = self._since or now
                self._about = dict(self._ownership.assigned)
                self._asked = self._admin.ask(topics, seconds=_ANSWER)
            return
        if not all(future.done() for future in self._asked.values()):
            self.silent = now - self._since if self._since else 0.0
            return
        asked, self._asked = self._asked, {}
        try:
            found = self._admin.answer(asked)
        except Exception as error:  # noqa: BLE001 - an outage, or no right to ask: it is asked again
            log.debug("%s: the topic ids could not be asked for: %s", self._name, text_of(error))
            if is_answer(error):
                self.heard()
            else:
                self._ownership.ask_anew()
            return
        self.heard()
        for where, partition in self._ownership.assigned.items():
            facts = found.get(where[0])
            known = self._about.get(where) is partition
            if known and facts is not None and is_another(partition.topic_id, facts.id):
                self._astray.add(where)
        missing = {topic for topic, facts in found.items() if facts is None and topic in topics}
        for topic in missing:
            self._inbox.tell(f"topic {topic} does not exist; it is waited for")
        if self._missing - missing and not missing:
            self._inbox.post(Told(""))
        self._missing = missing

    def _set_right(self, consumer: Any) -> None:
        """Find anew where to read partitions from."""
        missing: set[str] = set()
        for where in sorted(self._astray | self._ownership.unread):
            if where[0] in missing:
                continue
            try:
                if not self._ownership.restart(consumer, where):
                    missing.add(where[0])
                    continue
            except HeadraceError:
                raise
            except Exception as error:
                fatal = fatal_for_consumer(error, where=self._name, group=self._group)
                if fatal is not None:
                    raise fatal from error
                self._inbox.tell(f"where partition {where[1]} begins could not be asked: {text_of(error)}")
                self._ownership.ask_anew()
                return
            self._astray.discard(where)
