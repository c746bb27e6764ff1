"""Answers of a cluster that is coming back: one that tells nothing about a partition is no answer about it."""

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from headrace.kafka.admin import EARLIEST, Admin, sound


class Client:
    """Answers as the admin client does while a partition has no leader: with success, and with no offset."""

    def list_offsets(self, question: dict[TopicPartition, Any], **options: Any) -> dict[TopicPartition, Any]:
        answers = {}
        for tp in question:
            answers[tp] = future = Future[Any]()
            future.set_result(Result(7 if tp.partition == 0 else -1001))
        return answers


class Result:
    def __init__(self, offset: int) -> None:
        self.offset = offset


def test_an_end_of_a_log_that_was_not_told_is_an_error() -> None:
    admin = Admin({}, print)
    admin._made = Client()
    assert admin.offsets([("orders", 0)], EARLIEST) == {("orders", 0): 7}
    with pytest.raises(KafkaException, match="partition 1 of topic orders"):
        admin.offsets([("orders", 0), ("orders", 1)], EARLIEST)


def test_a_partition_with_an_error_is_not_one_without_a_commit() -> None:
    good, bad = TopicPartition("orders", 0, 5), TopicPartition("orders", 1)
    assert sound([good]) == [good]

    class Failed(TopicPartition):
        error = KafkaError(KafkaError.NOT_COORDINATOR)

    with pytest.raises(KafkaException, match="NOT_COORDINATOR"):
        sound([good, Failed("orders", 1)])
    assert sound([bad]) == [bad]
