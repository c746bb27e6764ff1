"""A short, seeded run of the fuzzer; `python -m tests.cloudevents.long_fuzz --seed N` takes a million inputs."""

import functools
import random
from types import ModuleType
from typing import Any

import pytest

from headrace.cloudevents import http, json, kafka, mqtt, nats
from headrace.errors import InvalidEvent
from tests.cloudevents.fuzz import in_kafka, in_str, messages, mutated, run


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_mutated_input_is_a_valid_event_or_refused(seed: int) -> None:
    outcomes = run(seed, 6_000, measured=False)
    # Both must happen often, or the mutations are too wild or too tame to say anything.
    assert outcomes["refused"] > 1_000
    assert outcomes["read"] > 500


def read_exactly(binding: ModuleType, headers: Any, body: bytes) -> list[Any]:
    """What a message holds by the exact path alone, without what is known of earlier messages."""
    mode = binding.BINDING.mode(headers, body)
    if mode == "binary":
        return [binding.BINDING.decode_exactly(headers, body)]
    if mode == "batch":
        return json.decode_batch(body)
    if mode == "plain":
        raise InvalidEvent("plain")
    return [json.decode(body)]


@pytest.mark.parametrize("binding", [http, kafka, nats, mqtt], ids=["http", "kafka", "nats", "mqtt"])
def test_the_quick_path_reads_mutated_messages_as_the_exact_path_does(binding: ModuleType) -> None:
    source = random.Random(4)
    seeds = messages(binding)
    more = [("content-type", "application/cloudevents+json"), ("Content-Type", "text/plain"), ("x-other", "1")]
    for number in range(2_000):
        message = mutated(source, source.choice(seeds), seeds)
        headers: list[Any] = in_kafka(message.headers) if binding is kafka else in_str(message.headers)
        if binding is http and number % 2:
            headers = list(message.headers)
        elif binding is not kafka and not number % 5:
            headers.insert(source.randint(0, len(headers)), source.choice(more))
        found: list[Any] = []
        for reads in (binding.decode, functools.partial(read_exactly, binding)):
            try:
                found.append([(event.attributes, event.raw, event._form) for event in reads(headers, message.body)])
            except InvalidEvent:
                found.append(None)
        assert found[0] == found[1], (number, headers, message.body)
