"""Topics at start-up: created when allowed, otherwise checked, and what differs said in words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from headrace.errors import ConfigurationError, ConnectionFailed, HeadraceError
from headrace.kafka.admin import ATTEMPT, Admin, TopicFacts
from headrace.kafka.faults import code_of, is_authentication, is_refused_certificate, text_of

__all__ = ["Shape", "differences", "ensure", "reach"]

_DENIED: Final = frozenset({29, 31})  # TOPIC_AUTHORIZATION_FAILED, CLUSTER_AUTHORIZATION_FAILED
_BAD_REQUEST: Final = frozenset({17, 37, 38, 40, 44})  # topic name, partitions, replication, config, policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A topic as it is declared; ``None`` and an empty ``config`` leave a trait to whoever made it.

    ``partitions`` and ``replicas`` in ``default_*`` are for creation only and are not checked.
    """

    partitions: int | None = None
    replicas: int | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    default_partitions: int = -1
    default_replicas: int = -1
    default_config: Mapping[str, str] = field(default_factory=dict)
    create: bool = True


async def ensure(admin: Admin, name: str, shape: Shape, *, seconds: float) -> TopicFacts:
    """The topic's facts; creates it where it does not exist.

    Raises:
        ConnectionFailed: no answer within ``seconds``, or no right to look or create.
        ConfigurationError: it does not exist and is not to be created, or differs from what is declared.
    """
    deadline = time.monotonic() + seconds
    created = False
    while True:
        try:
            facts = (await asyncio.to_thread(admin.topics, [name], seconds=ATTEMPT))[name]
            if facts is None and not created:
                if not shape.create:
                    raise ConfigurationError(
                        f"topic {name} does not exist, and create=False: create it, or let Headrace"
                    )
                created = True
                await asyncio.to_thread(
                    admin.create,
                    name,
                    partitions=shape.default_partitions if shape.partitions is None else shape.partitions,
                    replicas=shape.default_replicas if shape.replicas is None else shape.replicas,
                    config={**shape.default_config, **shape.config},
                )
                continue
            if facts is not None and facts.partitions:
                found = {} if not shape.config or created else await asyncio.to_thread(admin.topic_config, name)
                differing = [] if created else differences(name, shape, facts, found)
                if differing:
                    raise ConfigurationError("; ".join(differing))
                return facts
        except HeadraceError:
            raise
        except Exception as error:
            _judge(error, name)
            if time.monotonic() > deadline:
                raise ConnectionFailed(
                    f"topic {name}: no answer from the Kafka brokers within {seconds:g} s: {text_of(error)}"
                ) from error
            await asyncio.to_thread(admin.renew)
        if time.monotonic() > deadline:
            raise ConnectionFailed(
                f"topic {name} was created and is not there after {seconds:g} s; look at the brokers"
            )
        await asyncio.sleep(0.05)


def _judge(error: Exception, name: str) -> None:
    """Raise what no waiting mends."""
    code = code_of(error)
    if is_authentication(error):
        raise ConnectionFailed(f"the Kafka broker refused the credentials: {text_of(error)}") from error
    if code in _DENIED:
        raise ConnectionFailed(
            f"topic {name}: this user may not describe or create it; grant Describe, or have somebody create it: "
            f"{text_of(error)}"
        ) from error
    if code in _BAD_REQUEST:
        raise ConfigurationError(f"topic {name} cannot be created as declared: {text_of(error)}") from error


def differences(name: str, shape: Shape, facts: TopicFacts, config: Mapping[str, Any]) -> list[str]:
    """What is declared and found otherwise, a sentence each."""
    found: list[str] = []
    if shape.partitions is not None and shape.partitions != facts.partitions:
        remedy = "add partitions to it" if shape.partitions > facts.partitions else "partitions cannot be taken away"
        found.append(
            f"topic {name} has {facts.partitions} partitions, {shape.partitions} are declared: {remedy}, or change the declaration"
        )
    if shape.replicas is not None and shape.replicas != facts.replicas:
        found.append(
            f"topic {name} has {facts.replicas} replicas, {shape.replicas} are declared: reassign it, or change the declaration"
        )
    for key, wanted in shape.config.items():
        actual = config.get(key)
        if actual is not None and _plain(actual) != _plain(wanted):
            found.append(
                f"topic {name} has {key}={actual}, {wanted} is declared: alter the topic, or change the declaration"
            )
    return found


def _plain(value: str) -> str:
    """A list of words in any order is the same list."""
    return ",".join(sorted(part.strip() for part in value.split(",")))


async def reach(admin: Admin, errors: list[Any], url: str, *, seconds: float) -> None:
    """Wait for the first answer of a broker.

    A refused login comes as a lost connection from the call; its true cause reaches the error callback, which writes to
    ``errors``.

    Raises:
        ConnectionFailed: no answer in time, or the credentials or a certificate are refused.
        ConfigurationError: librdkafka refuses an option.
    """
    deadline = time.monotonic() + seconds
    while True:
        last: Exception | None = None
        try:
            await asyncio.to_thread(admin.reachable, max(0.05, min(1.0, deadline - time.monotonic())))
        except HeadraceError:
            raise
        except Exception as error:  # noqa: BLE001 - judged below
            last = error
        else:
            return
        refused = next((error for error in [*errors, last] if is_authentication(error)), None)
        if refused is not None:
            raise ConnectionFailed(f"{url} refused the credentials: {text_of(refused)}")
        stranger = next((error for error in errors if is_refused_certificate(error)), None)
        if stranger is not None:
            raise ConnectionFailed(f"{url}: a certificate was refused: {text_of(stranger)}")
        if time.monotonic() >= deadline:
            cause = text_of(errors[-1] if errors else last)
            raise ConnectionFailed(f"{url} did not answer within {seconds:g} s: {cause}")
