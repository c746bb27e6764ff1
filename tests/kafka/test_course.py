"""Whether what is read is the topic that it was: answers come late, and are about what was there when they were asked for."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from headrace.kafka.course import Course
from headrace.kafka.offsets import Offsets
from headrace.kafka.partition import Partition

WHERE = ("orders", 0)


def partition(topic_id: str) -> Partition:
    return Partition("orders", 0, topic_id=topic_id, partitions=1, offsets=Offsets(0), reached=0)


class Owned:
    """What is assigned, and what is set right."""

    def __init__(self) -> None:
        self.assigned = {WHERE: partition("old")}
        self.unread: set[tuple[str, int]] = set()
        self.restarted: list[str] = []

    def restart(self, consumer: Any, where: tuple[str, int]) -> bool:
        self.restarted.append(self.assigned[where].topic_id)
        return True


class Consumer:
    def get_watermark_offsets(self, place: Any, cached: bool) -> tuple[int, int]:
        return 0, 0


class Cluster:
    """An admin whose answer is given when the test says so."""

    def __init__(self) -> None:
        self.future: Future[str] = Future()

    def ask(self, topics: Any, *, seconds: float) -> dict[str, Future[str]]:
        return {"orders": self.future}

    def answer(self, asked: dict[str, Future[str]]) -> dict[str, Any]:
        return {"orders": SimpleNamespace(id=asked["orders"].result())}


def course(owned: Owned, cluster: Cluster) -> Course:
    inbox = SimpleNamespace(tell=lambda sentence: None, post=lambda item: None)
    named: Any = {"admin": cluster, "topics": ["orders"], "name": "kafka:orders", "group": "shop"}
    return Course(owned, inbox, **named)  # type: ignore[arg-type]


def test_another_id_than_that_of_what_is_read_has_it_read_from_where_the_new_one_begins() -> None:
    owned, cluster = Owned(), Cluster()
    looking = course(owned, cluster)
    looking.look(Consumer())
    cluster.future.set_result("new")
    looking.look(Consumer())
    assert owned.restarted == ["old"]


def test_an_answer_from_before_a_partition_was_set_right_says_nothing_of_it() -> None:
    owned, cluster = Owned(), Cluster()
    looking = course(owned, cluster)
    looking.look(Consumer())
    owned.assigned[WHERE] = partition("new")
    cluster.future.set_result("old")
    looking.look(Consumer())
    assert owned.restarted == []
