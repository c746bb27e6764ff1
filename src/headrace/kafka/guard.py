"""The rename guard: a handler under a new name would handle its whole history again, and its old group would stay."""

from __future__ import annotations

import logging

from headrace.engine.broker import Binding
from headrace.errors import RefusedError
from headrace.kafka.admin import EARLIEST, LATEST, Admin
from headrace.kafka.faults import text_of

__all__ = ["guard_rename", "strangers"]

log = logging.getLogger("headrace.kafka")


def strangers(admin: Admin, app: str, handlers: tuple[str, ...]) -> list[str]:
    """Groups of this app that belong to none of these handlers."""
    known = {f"{app}__{handler}" for handler in handlers}
    return sorted(
        group
        for group in admin.groups()
        if group.startswith(f"{app}__") and not group.endswith("__replay") and group not in known
    )


def guard_rename(admin: Admin, topic: str, binding: Binding) -> None:
    """Blocking; see `DESIGN.md`, Identity.

    Raises:
        RefusedError: the group is new, the topic has events, and a group of this app that no handler has committed there.
    """
    from confluent_kafka import KafkaException

    try:
        facts = admin.topics([topic])[topic]
        if facts is None or admin.committed(binding.durable, topic, facts.partitions):
            return
        lost = [
            group
            for group in strangers(admin, binding.app, (*binding.handlers, binding.handler))
            if admin.committed(group, topic, facts.partitions)
        ]
        if not lost:
            return
        wheres = [(topic, number) for number in range(facts.partitions)]
        first, ends = admin.offsets(wheres, EARLIEST), admin.offsets(wheres, LATEST)
    except KafkaException as error:
        # Whoever may not list groups cannot be guarded; what it may do is checked when the group is joined.
        log.info("topic %s: whether a handler was renamed cannot be seen: %s", topic, text_of(error))
        return
    if any(ends[where] > first[where] for where in wheres):
        old = lost[0].split("__", 1)[1]
        raise RefusedError(
            f"handler {binding.handler!r} would begin with the whole history of topic {topic}, while group {lost[0]} of "
            f"this app has no handler: was it renamed? Give it its old name, name={old!r}, or delete the old group "
            f"(kafka-consumer-groups.sh --delete --group {lost[0]})"
        )
