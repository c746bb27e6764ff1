"""Where a partition is read from when it is assigned: the committed offset, what the map in its metadata completes, or
the start position. Runs on the poll thread; blocking.

Nothing is skipped silently. A commit of another incarnation of the topic is void; an offset that retention removed is
moved to the first one there is, and the difference is counted. A start position speaks of what was there when the source
was opened: a partition, a topic or an incarnation of one that came later begins at its beginning, for it had no events then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from headrace.errors import ConfigurationError
from headrace.kafka.admin import EARLIEST, LATEST, Admin, TopicFacts, Where
from headrace.kafka.completed import LIMIT, NO_TOPIC_ID, Record, decode
from headrace.kafka.offsets import Offsets
from headrace.kafka.partition import Partition

__all__ = ["Opening", "Start", "find_start", "is_another", "parse_start", "pin"]


class Opening(NamedTuple):
    """What a start position means, as of the moment in which a source was opened, however long joining the group takes.

    ``offsets`` by name, topic id and partition: what was there; all else begins at its beginning. ``moment``: milliseconds since
    the epoch, of the first record that is read of those.
    """

    offsets: Mapping[tuple[str, str, int], int]
    moment: int | None = None


#: ``earliest``, ``latest``, a time in milliseconds since the epoch, or an offset for each partition.
Start = str | int | Mapping[int, int]


def pin(start: Start, topics: Sequence[str], admin: Admin) -> Opening:
    """What ``start`` means for the topics as they are now. Blocking.

    Raises:
        ConfigurationError: it names a partition that none of them has.
    """
    if start == EARLIEST:
        return Opening({})
    if topics[0].startswith("^"):
        topics = [name for name in admin.names() if re.search(topics[0], name)]
    found = {name: facts for name, facts in admin.topics(topics).items() if facts is not None}
    wheres = [(name, number) for name, facts in found.items() for number in range(facts.partitions)]
    moment: int | None = None
    if isinstance(start, Mapping):
        partitions = max((facts.partitions for facts in found.values()), default=0)
        beyond = [number for number in start if not 0 <= number < partitions]
        if beyond and found:
            raise ConfigurationError(
                f"start={dict(start)!r} names partition {beyond[0]}; topic {min(found)} has {partitions}, from 0 to {partitions - 1}"
            )
        offsets = {where: start[where[1]] for where in wheres if where[1] in start}
    elif isinstance(start, int):
        moment = start
        offsets = dict.fromkeys(wheres, 0)
    else:
        offsets = admin.offsets(wheres, LATEST)
    return Opening({(name, found[name].id, number): offset for (name, number), offset in offsets.items()}, moment)


def parse_start(start: object, where: str) -> Start:
    """What the user gave as a start position.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise ConfigurationError(f"{where}: start={start!r} has no time zone")
        return int(start.timestamp() * 1000)
    if isinstance(start, Mapping):
        if all(isinstance(key, int) and isinstance(value, int) and value >= 0 for key, value in start.items()):
            return dict(start)
    elif isinstance(start, str):
        if start in (EARLIEST, LATEST):
            return start
        try:
            moment = datetime.fromisoformat(start)
        except ValueError:
            moment = None
        if moment is not None:
            return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    raise ConfigurationError(
        f"{where}: start={start!r} is no start position: earliest, latest, an ISO 8601 time, or {{partition: offset}}"
    )


def find_start(
    assigned: Sequence[Where],
    committed: Mapping[Where, tuple[int, str]],
    *,
    admin: Admin,
    facts: Mapping[str, TopicFacts | None],
    start: Opening,
    by_time: Any,
    several_topics: bool,
    metadata_limit: int = LIMIT,
    tell: Any = None,
) -> list[Partition]:
    """A `Partition` for each that was assigned.

    ``committed`` holds commits of the whole topics, not only of what is assigned; ``by_time(wheres, milliseconds)``
    gives the first offset at or after a time, or -1; ``tell(sentence)`` gets what a person should know.
    """
    first = admin.offsets(assigned, EARLIEST)
    after_last = admin.offsets(assigned, LATEST)
    records = {where: _record(offset, metadata) for where, (offset, metadata) in committed.items()}
    found: list[Partition] = []
    late: list[Where] = []
    for where in assigned:
        topic, number = where
        known = facts.get(topic)
        topic_id = NO_TOPIC_ID if known is None else known.id
        count = 0 if known is None else known.partitions
        low, high = first[where], after_last[where]
        expired = 0
        record = records.get(where)
        if record is not None and is_another(record.topic_id, topic_id):
            tell(
                f"topic {topic} was deleted and created again since the last commit: partition {number} is read from "
                "its beginning; what the old topic held beyond the commit is gone"
            )
            record = Record(topic_id, count, low, low)
        elif record is not None and record.base > high:
            tell(
                f"partition {number} of topic {topic} ends at {high}, before the committed offset {record.base}: its "
                "log was cut, or somebody moved the offset; it is read from its end"
            )
            record = Record(topic_id, count, high, high)
        elif record is not None and record.base < low:
            expired = low - record.base
            tell(
                f"partition {number} of topic {topic} begins at {low}, after the committed offset {record.base}: up to "
                f"{expired} events were removed by retention before they were read"
            )
            done = [(max(low, begin), end) for begin, end in record.done if end > low]
            record = record._replace(base=low, done=done)
        elif record is None:
            began_with = max((r.partitions for w, r in records.items() if w[0] == topic and r is not None), default=0)
            if began_with and number >= began_with:
                record = Record(topic_id, count, low, low)
            else:
                late.append(where)
                record = Record(topic_id, count, low, low)
        found.append(
            Partition(
                topic,
                number,
                topic_id=topic_id,
                partitions=count,
                offsets=Offsets(record.base, record.done, limit=metadata_limit),
                reached=record.reached,
                announced_by=record.owner,
                several_topics=several_topics,
                expired=expired,
            )
        )
    ids = {topic: NO_TOPIC_ID if known is None else known.id for topic, known in facts.items()}
    pinned = {
        (topic, number): start.offsets[topic, ids[topic], number]
        for topic, number in late
        if (topic, ids[topic], number) in start.offsets
    }
    if pinned:
        positions = _positions(pinned, first, after_last, start.moment, by_time)
        for index, partition in enumerate(found):
            position = positions.get(partition.key)
            if position is not None:
                found[index] = Partition(
                    partition.topic,
                    partition.number,
                    topic_id=partition.topic_id,
                    partitions=partition.partitions,
                    offsets=Offsets(position, limit=metadata_limit),
                    reached=position,
                    several_topics=several_topics,
                )
    return found


def is_another(committed: str, found: str) -> bool:
    """Whether two topic ids are known and differ."""
    return bool(committed) and NO_TOPIC_ID not in (committed, found) and committed != found


def _record(offset: int, metadata: str) -> Record:
    """The record of a commit; only the offset counts where somebody moved it or another program committed it."""
    record = decode(metadata)
    if record is None or record.base != offset:
        return Record("", 0, offset, offset)
    return record


def _positions(
    pinned: Mapping[Where, int],
    first: Mapping[Where, int],
    after_last: Mapping[Where, int],
    moment: int | None,
    by_time: Any,
) -> dict[Where, int]:
    if moment is not None:
        moments = by_time(list(pinned), moment)
        return {where: moments[where] if moments[where] >= 0 else after_last[where] for where in pinned}
    return {where: min(max(offset, first[where]), after_last[where]) for where, offset in pinned.items()}
