"""What `headrace check --connect` and `doctor` find out about a Kafka cluster; nothing is created."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from headrace.engine.broker import Binding, Finding
from headrace.kafka.admin import Admin, TopicFacts
from headrace.kafka.completed import decode
from headrace.kafka.dead_letters import dead_letter_topic
from headrace.kafka.faults import text_of
from headrace.kafka.guard import strangers

__all__ = ["inspect"]

_WEEK: Final = 7 * 24 * 3600 * 1000


def inspect(admin: Admin, app: str, bindings: Sequence[tuple[str, Binding]]) -> list[Finding]:
    """Findings about the topics and groups of these channels. Blocking."""
    from confluent_kafka import KafkaException

    findings: list[Finding] = []
    names = [channel for channel, _ in bindings]
    letters = dead_letter_topic(app)
    try:
        topics = admin.topics([*dict.fromkeys(names), letters])
        for channel, binding in bindings:
            facts = topics[channel]
            if facts is None:
                findings.append(Finding("info", f"topic {channel} does not exist yet; the app creates it where it may"))
            else:
                findings += _channel(admin, channel, binding, facts)
        if topics[letters] is not None:
            findings += _letters(admin, letters)
        findings += _groups(admin, app, bindings)
    except KafkaException as error:
        findings.append(Finding("error", f"the cluster does not answer what is asked of it: {text_of(error)}"))
    return findings


def _channel(admin: Admin, channel: str, binding: Binding, facts: TopicFacts) -> list[Finding]:
    findings: list[Finding] = []
    order = "handlers without key= use the record key; " if not binding.keyed else ""
    findings.append(
        Finding(
            "info",
            f"topic {channel}: {facts.partitions} partitions, so up to {facts.partitions} replicas of {binding.handler!r} "
            f"share the work; {order}order holds for keys that the producer partitions by",
        )
    )
    if facts.replicas == 1:
        findings.append(
            Finding("warning", f"topic {channel} has one replica: its events are lost with its broker; give it three")
        )
    config = admin.topic_config(channel)
    if "compact" in config.get("cleanup.policy", ""):
        findings.append(
            Finding("warning", f"topic {channel} is compacted: of several events with one key only the last is certain")
        )
    retention = int(config.get("retention.ms", "-1") or -1)
    if 0 <= retention < 24 * 3600 * 1000:
        findings.append(
            Finding(
                "warning", f"topic {channel} keeps events for {retention / 3600000:g} h: an outage of that length loses"
            )
        )
    if facts.replicas > 1 and int(config.get("min.insync.replicas", "1") or 1) < 2:
        findings.append(
            Finding(
                "warning",
                f"topic {channel}: min.insync.replicas=1 confirms events that only one broker has; set it to 2",
            )
        )
    committed = admin.committed(binding.durable, channel, facts.partitions)
    for (_, number), (offset, metadata) in sorted(committed.items()):
        record = decode(metadata)
        if record is not None and record.base == offset and len(metadata) > 3500:
            findings.append(
                Finding(
                    "warning",
                    f"partition {number} of {channel}: offset {offset} is not done and thousands beyond it are; look for a "
                    f"stuck key of {binding.handler!r}",
                )
            )
    return findings


def _letters(admin: Admin, topic: str) -> list[Finding]:
    config = admin.topic_config(topic)
    if "compact" not in config.get("cleanup.policy", ""):
        return [
            Finding("error", f"topic {topic} is not compacted: dead letters would expire; set cleanup.policy=compact")
        ]
    if int(config.get("delete.retention.ms", "0") or 0) < _WEEK:
        return [
            Finding(
                "info",
                f"topic {topic}: what was done to dead letters stays readable for less than a week (delete.retention.ms)",
            )
        ]
    return []


def _groups(admin: Admin, app: str, bindings: Sequence[tuple[str, Binding]]) -> list[Finding]:
    """A group of this app that no handler has: a rename leaves its history behind."""
    handlers = {name for _, binding in bindings for name in (binding.handler, *binding.handlers)}
    return [
        Finding(
            "warning",
            f"group {group} belongs to no handler of this app: name the handler {group.split('__')[1]!r} again, or delete "
            "the group",
        )
        for group in strangers(admin, app, tuple(handlers))
    ]
