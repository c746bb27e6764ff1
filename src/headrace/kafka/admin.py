"""Questions to the cluster, asked by blocking calls: from the poll thread as they are, from the loop in a thread.

One client for the broker object, made at the first question. Every answer has a time limit; trouble is librdkafka's
own exception, for the caller knows what it was about.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, NamedTuple, cast

from headrace.kafka.client_log import client_log
from headrace.kafka.completed import NO_TOPIC_ID
from headrace.kafka.faults import is_missing_topic, refused_configuration

__all__ = ["ATTEMPT", "EARLIEST", "LATEST", "Admin", "TopicFacts", "Where", "sound"]

log = logging.getLogger("headrace.kafka")

#: A topic's partition.
Where = tuple[str, int]
EARLIEST: Final = "earliest"
LATEST: Final = "latest"
#: Seconds for one answer where a question is repeated.
ATTEMPT: Final = 3.0
#: Seconds between questions to a partition that has no leader.
_LEADER_POLL: Final = 0.05
#: Seconds within which a client is new.
_FRESH: Final = 1.0
_NO_UUID: Final = ("", "AAAAAAAAAAAAAAAAAAAAAA")


class TopicFacts(NamedTuple):
    """A topic as it is: the id of this incarnation, and how many partitions and replicas it has."""

    id: str
    partitions: int
    replicas: int


class Admin:
    """``config``: librdkafka options; ``on_error`` gets what only the error callback learns (a refused login)."""

    def __init__(self, config: Mapping[str, Any], on_error: Callable[[Any], None], *, timeout: float = 10.0) -> None:
        self._config = dict(config)
        self._on_error = on_error
        self._timeout = timeout
        self._lock = threading.Lock()
        self._made: Any = None
        self._since = 0.0

    @property
    def client(self) -> Any:
        """The confluent-kafka AdminClient. Raises `ConfigurationError` for options that it refuses."""
        with self._lock:
            if self._made is None:
                from confluent_kafka import KafkaException
                from confluent_kafka.admin import AdminClient

                config: Any = {**self._config, "error_cb": self._on_error, "logger": client_log}
                self._since = time.monotonic()
                try:
                    self._made = AdminClient(config)
                except KafkaException as error:
                    raise refused_configuration(f"kafka://{config['bootstrap.servers']}", error) from error
            return self._made

    @property
    def _kinds(self) -> Any:
        """The module whose classes say what is asked; its types are not exported."""
        from confluent_kafka import admin

        return admin

    def reachable(self, seconds: float) -> None:
        """Raise librdkafka's exception unless a broker answers within ``seconds``."""
        client = self.client
        try:
            client.list_topics(timeout=seconds)
        finally:
            client.poll(0)

    def renew(self) -> None:
        """Ask with a new client from now on: one that heard of no controller or leader while the brokers came back waits for
        them, some for minutes, and does not ask again. For several threads at once one is made."""
        old = None
        with self._lock:
            if time.monotonic() - self._since > _FRESH:
                old, self._made = self._made, None
        # The last reference ends its threads, which takes a moment, outside the lock.
        del old

    def names(self) -> list[str]:
        """Every topic that this user may see."""
        return sorted(self.client.list_topics(timeout=self._timeout).topics)

    def topics(self, names: Sequence[str], *, seconds: float | None = None) -> dict[str, TopicFacts | None]:
        """The facts of each topic; ``None`` for one that does not exist. ``seconds``: the time for the answer, where whoever
        asks will ask again, with a new client (`renew`)."""
        timeout = self._timeout if seconds is None else seconds
        return self.answer(self.ask(names, seconds=timeout), seconds=timeout + 1)

    def ask(self, names: Iterable[str], *, seconds: float) -> Mapping[str, Future[Any]]:
        """The question of `topics` without waiting for the answer, which `answer` understands."""
        from confluent_kafka import TopicCollection

        asked = self.client.describe_topics(TopicCollection(list(names)), request_timeout=seconds)
        return cast("Mapping[str, Future[Any]]", asked)

    @staticmethod
    def answer(asked: Mapping[str, Future[Any]], *, seconds: float = 0.0) -> dict[str, TopicFacts | None]:
        """What `topics` gives, waited for that long."""
        from confluent_kafka import KafkaException

        found: dict[str, TopicFacts | None] = {}
        for name, future in asked.items():
            try:
                topic = future.result(seconds)
            except KafkaException as error:
                if not is_missing_topic(error):
                    raise
                found[name] = None
                continue
            id = str(topic.topic_id)
            replicas = min((len(partition.replicas) for partition in topic.partitions), default=0)
            found[name] = TopicFacts(NO_TOPIC_ID if id in _NO_UUID else id, len(topic.partitions), replicas)
        return found

    def create(self, name: str, *, partitions: int, replicas: int, config: Mapping[str, str]) -> bool:
        """Create a topic; ``False`` where it exists. -1 partitions or replicas: the broker's default."""
        from confluent_kafka import KafkaError, KafkaException

        topic = self._kinds.NewTopic(name, partitions, replicas, config=dict(config))
        asked = self.client.create_topics([topic], operation_timeout=self._timeout, request_timeout=self._timeout)
        try:
            asked[name].result(self._timeout + 1)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise
        return True

    def topic_config(self, name: str) -> dict[str, str]:
        """The effective configuration of a topic."""
        kinds = self._kinds
        resource = kinds.ConfigResource(kinds.ResourceType.TOPIC, name)
        asked = self.client.describe_configs([resource], request_timeout=self._timeout)
        return {key: entry.value for key, entry in asked[resource].result(self._timeout + 1).items()}

    def offsets(self, wheres: Iterable[Where], spec: str) -> dict[Where, int]:
        """The first (`EARLIEST`) or next (`LATEST`) offset of each partition. One without a leader is waited for."""
        from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition

        specs = self._kinds.OffsetSpec
        wanted = specs.earliest() if spec == EARLIEST else specs.latest()
        left = set(wheres)
        found: dict[Where, int] = {}
        end = time.monotonic() + self._timeout
        while left:
            asked = self.client.list_offsets(
                {TopicPartition(*where): wanted for where in left},
                isolation_level=IsolationLevel.READ_UNCOMMITTED,
                request_timeout=self._timeout,
            )
            answers = {(tp.topic, tp.partition): future.result(self._timeout + 1) for tp, future in asked.items()}
            # An offset below zero comes as a success, for a partition whose leader is not there at this moment.
            found.update((where, answer.offset) for where, answer in answers.items() if answer.offset >= 0)
            left.difference_update(found)
            if left:
                if time.monotonic() > end:
                    topic, number = min(left)
                    raise KafkaException(
                        KafkaError(
                            KafkaError.LEADER_NOT_AVAILABLE, f"partition {number} of topic {topic} has no leader"
                        )
                    )
                time.sleep(_LEADER_POLL)
        return found

    def groups(self) -> list[str]:
        """The ids of all consumer groups that this user may see."""
        result = self.client.list_consumer_groups(request_timeout=self._timeout).result(self._timeout + 1)
        return [group.group_id for group in result.valid]

    def committed(self, group: str, topic: str, partitions: int) -> dict[Where, tuple[int, str]]:
        """What a group has committed of a topic: offset and metadata of each partition that it has read.

        A consumer asks, which joins nothing: librdkafka 2.16 crashes where its admin client asks for offsets while the
        group's coordinator moves or has just started.
        """
        from confluent_kafka import Consumer, TopicPartition

        config: Any = {**self._config, "group.id": group, "enable.auto.commit": False, "error_cb": self._on_error}
        consumer = Consumer({**config, "logger": client_log})
        try:
            asked = [TopicPartition(topic, number) for number in range(partitions)]
            answer = consumer.committed(asked, timeout=self._timeout)
        finally:
            consumer.close()
        found: dict[Where, tuple[int, str]] = {}
        for tp in sound(answer):
            if tp.offset >= 0:
                found[tp.topic, tp.partition] = (tp.offset, tp.metadata or "")
        return found


def sound(answer: Sequence[Any]) -> Sequence[Any]:
    """The partitions of an answer, none of which has an error: one with an error tells no offset, and is not one without.

    Raises:
        KafkaException: the first error.
    """
    from confluent_kafka import KafkaException

    for tp in answer:
        if tp.error is not None:
            raise KafkaException(tp.error)
    return answer
