"""Topics at start-up: created as declared, and what differs said in words."""

import asyncio

import pytest

from headrace.errors import ConfigurationError
from headrace.kafka import Topic
from tests.kafka.harness import Harness


async def config(at: Harness, name: str = "") -> dict[str, str]:
    return await asyncio.to_thread(at.broker.admin.topic_config, name or at.topic)


async def test_a_missing_topic_is_created_as_it_is_declared(at: Harness) -> None:
    declared = Topic(
        at.topic, partitions=3, replication=1, config={"retention.ms": "3600000", "cleanup.policy": "compact"}
    )
    await at.reader(topic=declared)
    found = (await asyncio.to_thread(at.broker.admin.topics, [at.topic]))[at.topic]
    assert found is not None
    assert (found.partitions, found.replicas) == (3, 1)
    settings = await config(at)
    assert (settings["retention.ms"], settings["cleanup.policy"]) == ("3600000", "compact")
    # Once more: what was created is what is declared.
    await at.reader("again", topic=declared)


async def test_every_difference_is_named_with_its_remedy(at: Harness) -> None:
    await at.make_topic(2, {"retention.ms": "1000000", "cleanup.policy": "delete"})
    wanted = {"retention.ms": "3600000", "cleanup.policy": "compact"}
    with pytest.raises(ConfigurationError) as refused:
        await at.reader(topic=Topic(at.topic, partitions=6, replication=3, config=wanted))
    said = str(refused.value)
    assert "has 2 partitions, 6 are declared: add partitions" in said
    assert "has 1 replicas, 3 are declared" in said
    assert "has retention.ms=1000000, 3600000 is declared" in said
    assert "has cleanup.policy=delete, compact is declared" in said
    with pytest.raises(ConfigurationError, match="partitions cannot be taken away"):
        await at.reader(topic=Topic(at.topic, partitions=1))


async def test_policies_in_another_order_are_no_difference(at: Harness) -> None:
    await at.make_topic(1, {"cleanup.policy": "compact,delete"})
    await at.reader(topic=Topic(at.topic, config={"cleanup.policy": "delete, compact"}))


async def test_a_topic_that_must_not_be_created_has_to_be_there(at: Harness) -> None:
    with pytest.raises(ConfigurationError, match="does not exist, and create=False"):
        await at.reader(topic=Topic(at.topic, create=False))


async def test_a_declaration_that_the_broker_refuses_is_told(at: Harness) -> None:
    with pytest.raises(ConfigurationError, match="cannot be created as declared"):
        await at.reader(topic=Topic(at.topic, config={"retention.ms": "soon"}))
    with pytest.raises(ConfigurationError, match="cannot be created as declared"):
        await at.reader(topic=Topic(at.topic, replication=5))


async def test_check_says_what_is_amiss_with_a_topic_and_creates_nothing(at: Harness) -> None:
    findings = await at.broker.inspect([(at.topic, at.binding())])
    assert any("does not exist yet" in finding.message for finding in findings)
    assert not await at.facts(at.topic)
    await at.make_topic(2, {"cleanup.policy": "compact", "retention.ms": "3600000"})
    said = [f"{finding.level}: {finding.message}" for finding in await at.broker.inspect([(at.topic, at.binding())])]
    assert any("2 partitions, so up to 2 replicas" in sentence for sentence in said)
    assert any("order holds for keys that the producer partitions by" in sentence for sentence in said)
    assert any(sentence.startswith("warning") and "one replica" in sentence for sentence in said)
    assert any(sentence.startswith("warning") and "is compacted" in sentence for sentence in said)
    assert any(sentence.startswith("warning") and "keeps events for 1 h" in sentence for sentence in said)
