"""Which partitions the member has: what a rebalance gives it, where each is read from, what is said when it goes.

The client calls in from a poll, on the poll thread; everything here blocks that thread and no other. A revocation waits for
the loop to settle what runs (`Revocation`), with a limit; the loop never waits for this thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from headrace.errors import HeadraceError
from headrace.kafka.admin import ATTEMPT, EARLIEST, Admin, Where, sound
from headrace.kafka.committing import EVERY, Commit, commit_all, may_commit_later
from headrace.kafka.crossing import Assigned, Failed, Item, Revocation, Told
from headrace.kafka.faults import fatal_for_consumer, text_of
from headrace.kafka.partition import Partition
from headrace.kafka.start import Opening, find_start, is_another

__all__ = ["GRACE", "Ownership"]

log = logging.getLogger("headrace.kafka")

#: Seconds that attempts of revoked partitions get before they are cancelled, uncounted.
GRACE: Final = 10.0
#: Seconds in which the last commit of revoked partitions is tried again: the coordinator moves, or another rebalance begins.
_LAST_COMMIT: Final = 3.0


class Ownership:
    """The partitions of one member.

    Parameters:
        group: its id. eager: the assignor moves all partitions at each rebalance. several: lanes must tell topics apart.
        start: where a partition without a commit begins.
        post: hands an item to the loop. tell: a sentence for people. joined: called at each assignment; lost: where the member
            is in the group no more.
        closing: whether the member is about to leave.
    """

    def __init__(
        self,
        *,
        name: str,
        group: str,
        eager: bool,
        several: bool,
        start: Opening,
        admin: Admin,
        post: Callable[[Item], None],
        tell: Callable[[str], None],
        joined: Callable[[], None],
        lost: Callable[[], None],
        closing: Callable[[], bool],
    ) -> None:
        self.name = name
        self.assigned: dict[Where, Partition] = {}
        #: Partitions that are ours and paused, for the cluster knew no topic of that name: see `restart`.
        self.unread: set[Where] = set()
        self.rebalances = 0
        #: Partitions that went during the client's call that is under way: what it returns of them is void.
        self.gone: set[Where] = set()
        #: Those of them that came back within it: paused until it has ended, so that nothing of them is among what is void.
        self._held: list[Where] = []
        #: What is assigned from now on is paused at once.
        self.paused = False
        self._group_id = group
        self._eager = eager
        self._several = several
        self._start = start
        #: Topic ids as they were found last.
        self._ids: dict[str, str] = {}
        self._admin = admin
        self._post = post
        self._tell = tell
        self._joined = joined
        self._lost = lost
        self._closing = closing

    @property
    def all(self) -> list[Where]:
        """What is ours, read or not."""
        return [*self.assigned, *self.unread]

    # Called by the client inside a poll

    def on_assign(self, consumer: Any, tps: list[Any]) -> None:
        """These came to us, by this assignment; perhaps none."""
        self.rebalances += 1
        self._joined()
        partitions: list[Partition] = []
        pause = 0.05
        while tps and not self._closing():
            try:
                partitions = self._starts(consumer, [(tp.topic, tp.partition) for tp in tps])
                break
            except HeadraceError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the client raises, the assignment waits for an answer
                fatal = fatal_for_consumer(error, where=self.name, group=self._group_id)
                if fatal is not None:
                    self._post(Failed(fatal))
                    return
                self._tell(f"the committed offsets could not be read; asking again: {text_of(error)}")
                time.sleep(pause)
                pause = min(pause * 2, 2.0)
                self._admin.renew()
        by_where = {partition.key: partition for partition in partitions}
        wheres = [(tp.topic, tp.partition) for tp in tps]
        self.unread.update(where for where in wheres if where not in by_where)
        for tp, where in zip(tps, wheres, strict=True):
            # Nothing is read of those without a start; the client is not to look for one by itself.
            tp.offset = by_where[where].offsets.watermark() if where in by_where else 0
        (consumer.assign if self._eager else consumer.incremental_assign)(tps)
        self.assigned.update(by_where)
        self._held += [where for where in by_where if where in self.gone]
        self.set_reading(consumer, wheres)
        self._post(Told(""))
        for topic in sorted({topic for topic, _ in self.unread}) if not self._closing() else ():
            self._tell_missing(topic)
        self._post(Assigned(partitions))

    def _tell_missing(self, topic: str) -> None:
        self._tell(f"topic {topic} does not exist; it is waited for")

    def begin_call(self, consumer: Any) -> None:
        """The client is about to be asked for messages: whatever it returns now is of what is assigned now."""
        self.gone.clear()
        if self._held:
            held, self._held = self._held, []
            self.set_reading(consumer, held)

    def set_reading(self, consumer: Any, wheres: Iterable[Where]) -> None:
        """Have the client read or pause these, as is due now. It is said of whatever is assigned: the client keeps a pause
        over the end of an assignment, and the partition may come back."""
        from confluent_kafka import KafkaException, TopicPartition

        due: dict[bool, list[Any]] = {}
        for where in wheres:
            partition = self.assigned.get(where)
            if partition is not None or where in self.unread:
                paused = self.paused or partition is None or partition.paused or where in self._held
                due.setdefault(paused, []).append(TopicPartition(*where))
        for paused, tps in due.items():
            try:
                (consumer.pause if paused else consumer.resume)(tps)
            except KafkaException as error:
                # It goes to another member in this moment.
                log.debug("%s: %s", self.name, text_of(error))

    def ask_anew(self) -> None:
        """A question was not answered: the next one is asked by a new client."""
        self._admin.renew()

    def _starts(self, consumer: Any, wheres: Sequence[Where]) -> list[Partition]:
        from confluent_kafka import TopicPartition

        topics = sorted({topic for topic, _ in wheres})
        facts = self._admin.topics(topics, seconds=ATTEMPT)
        asked = {
            (topic, number) for topic, found in facts.items() if found is not None for number in range(found.partitions)
        }
        # Not of a topic that does not exist. Perhaps it is new, and a broker was asked that has not heard of it yet.
        wheres = [where for where in wheres if facts[where[0]] is not None]
        if not wheres:
            return []
        for topic, found in facts.items():
            if found is not None and is_another(self._ids.get(topic, ""), found.id):
                self._tell(
                    f"topic {topic} was deleted and created again under this app: it is read from its beginning; what the old "
                    "one held and was not read is gone"
                )
        answer = consumer.committed([TopicPartition(*where) for where in sorted(asked | set(wheres))], timeout=10.0)
        committed = {(tp.topic, tp.partition): (tp.offset, tp.metadata or "") for tp in sound(answer) if tp.offset >= 0}

        def by_time(late: Sequence[Where], milliseconds: int) -> dict[Where, int]:
            found = consumer.offsets_for_times([TopicPartition(*where, milliseconds) for where in late], timeout=10.0)
            return {(tp.topic, tp.partition): tp.offset for tp in sound(found)}

        starts = find_start(
            wheres,
            committed,
            admin=self._admin,
            facts=facts,
            start=self._start,
            by_time=by_time,
            several_topics=self._several,
            tell=self._tell,
        )
        self._ids.update((topic, found.id) for topic, found in facts.items() if found is not None)
        return starts

    def restart(self, consumer: Any, where: Where) -> bool:
        """The topic is another one, or its log does not have the offset that is asked for: retention was faster. Or there was
        no such topic when the partition was assigned.

        What was read before goes on; only where to read from is found anew. ``False`` where the cluster knows no topic of
        that name: it is to be asked again.
        """
        topic, number = where
        old = self.assigned.get(where)
        if old is None and where not in self.unread:
            return True
        facts = self._admin.topics([topic], seconds=ATTEMPT)[topic]
        if facts is None:
            self._tell_missing(topic)
            return False
        low = self._admin.offsets([where], EARLIEST)[where]
        if old is not None and facts.id == old.topic_id and low >= (position := self._position(consumer, where)):
            missed = low - position
            if missed:
                # None where it was set right meanwhile, and this is said of where it was read from before.
                self._tell(
                    f"partition {number} of topic {topic} begins at {low} now: up to {missed} events were removed by "
                    "retention before they were read"
                )
            old.expired += missed
            self._read_from(consumer, topic, number, low)
            return True
        partitions = self._starts(consumer, [where])
        if not partitions:
            return False
        (partition,) = partitions
        self.unread.discard(where)
        self.assigned[where] = partition
        self._read_from(consumer, topic, number, partition.offsets.watermark())
        # What the client returned of it in the call before is read again: it must not come first.
        self.gone.add(where)
        self._post(Told(""))
        self._post(Assigned([partition]))
        return True

    def _read_from(self, consumer: Any, topic: str, number: int, offset: int) -> None:
        """Go to an offset. A partition that the client has given up reading cannot be sought in: it is assigned anew."""
        from confluent_kafka import TopicPartition

        place = TopicPartition(topic, number, offset)
        if not self._eager:
            consumer.incremental_unassign([place])
            consumer.incremental_assign([place])
        else:
            others = [where for where in self.assigned if where != (topic, number)]
            positions = [TopicPartition(*where, self._position(consumer, where)) for where in others]
            consumer.assign([*positions, place])
        self.set_reading(consumer, [(topic, number)])

    def _position(self, consumer: Any, where: Where) -> int:
        """The offset that is read next."""
        from confluent_kafka import TopicPartition

        (tp,) = consumer.position([TopicPartition(*where)])
        return int(tp.offset) if tp.offset >= 0 else self.assigned[where].offsets.next

    def on_revoke(self, consumer: Any, tps: list[Any]) -> None:
        """These are to go to another member: settle, commit, let go."""
        wheres = [(tp.topic, tp.partition) for tp in tps]
        self.rebalances += 1
        revocation = self.leave(wheres, lost=False)
        if revocation.wait(GRACE + 5.0):
            self._commit_last(consumer, revocation.commits)
        else:
            log.error("%s: the loop stands still; partitions %s are given up uncommitted", self.name, wheres)
        self._unassign(consumer, tps)

    def on_lost(self, consumer: Any, tps: list[Any]) -> None:
        """These have gone already, perhaps to another member."""
        self.rebalances += 1
        self._lost()
        self.leave([(tp.topic, tp.partition) for tp in tps], lost=True)
        self._unassign(consumer, tps)

    def leave(self, wheres: list[Where], *, lost: bool) -> Revocation:
        """Forget these here, and have the loop do so; what it answers is in the revocation."""
        self.gone.update(wheres)
        for where in wheres:
            self.assigned.pop(where, None)
            self.unread.discard(where)
        revocation = Revocation(wheres, lost=lost)
        self._post(revocation)
        return revocation

    def _unassign(self, consumer: Any, tps: list[Any]) -> None:
        if self._eager:
            consumer.unassign()
        else:
            consumer.incremental_unassign(tps)

    def _commit_last(self, consumer: Any, commits: Sequence[Commit]) -> None:
        """The last word on partitions that go to another member; what it does not reach is handled again there."""
        end = time.monotonic() + _LAST_COMMIT
        while commits:
            errors = commit_all(consumer, commits)
            commits = [commit for commit in commits if commit[:2] in errors or EVERY in errors]
            if not commits:
                return
            why = next(iter(errors.values()))
            if not may_commit_later(why) or time.monotonic() > end:
                log.warning("%s: the last commit of %d partitions failed: %s", self.name, len(commits), text_of(why))
                return
            time.sleep(0.05)
