"""Answers of a cluster that is coming back: one that tells nothing about a partition is no answer about it."""

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from headrace.errors import ConnectionFailed
from headrace.kafka.admin import EARLIEST, Admin, sound
from headrace.kafka.committing import EVERY, Commit, Committing


class Client:
    """Answers as the admin client does while partition 1 has no leader: with success, and with no offset."""

    def __init__(self, leaderless: int) -> None:
        self.leaderless = leaderless

    def list_offsets(self, question: dict[TopicPartition, Any], **options: Any) -> dict[TopicPartition, Any]:
        answers = {}
        for tp in question:
            answers[tp] = future = Future[Any]()
            away = tp.partition == 1 and self.leaderless > 0
            future.set_result(Result(-1001 if away else 7))
        self.leaderless -= 1
        return answers


class Result:
    def __init__(self, offset: int) -> None:
        self.offset = offset


def admin(client: Client) -> Admin:
    admin = Admin({}, print, timeout=0.2)
    admin._made = client
    return admin


def test_the_end_of_a_log_is_asked_for_until_its_partition_has_a_leader() -> None:
    found = admin(Client(2)).offsets([("orders", 0), ("orders", 1)], EARLIEST)
    assert found == {("orders", 0): 7, ("orders", 1): 7}


def test_an_end_of_a_log_that_was_not_told_is_an_error() -> None:
    with pytest.raises(KafkaException, match="partition 1 of topic orders"):
        admin(Client(1000)).offsets([("orders", 0), ("orders", 1)], EARLIEST)


def test_a_partition_with_an_error_is_not_one_without_a_commit() -> None:
    good, bad = TopicPartition("orders", 0, 5), TopicPartition("orders", 1)
    assert sound([good]) == [good]

    class Failed(TopicPartition):
        error = KafkaError(KafkaError.NOT_COORDINATOR)

    with pytest.raises(KafkaException, match="NOT_COORDINATOR"):
        sound([good, Failed("orders", 1)])
    assert sound([bad]) == [bad]


class Mute:
    """A consumer that takes commits and does not answer."""

    def __init__(self) -> None:
        self.taken: list[list[TopicPartition]] = []

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        self.taken.append(offsets)


def committed(committing: Committing, consumer: Mute, *texts: Commit) -> Future[dict[Any, Any]]:
    answer: Future[dict[Any, Any]] = Future()
    committing.begin(consumer, texts, answer)
    return answer


def test_an_answer_belongs_to_the_commit_that_said_the_same() -> None:
    committing, consumer = Committing("orders"), Mute()
    first = committed(committing, consumer, ("orders", 0, 5, "one"))
    second = committed(committing, consumer, ("orders", 0, 5, "two"), ("orders", 1, 1, ""))
    committing.on_commit(None, [TopicPartition("orders", 0, 5, metadata="another's")])
    committing.on_commit(None, consumer.taken[1][::-1])
    assert not first.done()
    assert second.result(0) == {}
    committing.on_commit(KafkaError(KafkaError.NOT_COORDINATOR), consumer.taken[0])
    assert set(first.result(0)) == {EVERY}
    assert not committing


def test_a_commit_that_is_never_answered_is_given_up() -> None:
    committing, consumer = Committing("orders"), Mute()
    answer = committed(committing, consumer, ("orders", 0, 5, ""))
    committing.give_up_old()
    assert committing, "it is waited for first"
    committing.give_up("closed")
    with pytest.raises(ConnectionFailed, match="closed"):
        answer.result(0)
    committing.on_commit(None, consumer.taken[0])
