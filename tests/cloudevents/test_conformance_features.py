"""The conformance repository's features and replay files, through the bindings they speak of."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from headrace import Event
from headrace.cloudevents import http, kafka, mqtt, nats
from tests.cloudevents.vectors import vectors

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

FEATURES: Path = vectors("ce-conformance-features")
REPLAYS: Path = vectors("ce-conformance-yaml")


class Scenario:
    """One scenario with the values of one row of its examples filled in."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.blocks = [
            re.sub(r"^ {8}", "", block, flags=re.M).strip("\n")
            for block in re.findall(r'"""\n(.*?)\n\s*"""', text, re.S)
        ]
        self.tables: list[list[tuple[str, ...]]] = []
        before = ""
        for line in re.sub(r'"""\n.*?\n\s*"""', "", text, flags=re.S).splitlines():
            cells = tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
            if line.strip().startswith("|") and not before.strip().startswith("|"):
                self.tables.append([])
            elif line.strip().startswith("|"):
                self.tables[-1].append(cells)
            before = line


def scenarios(name: str) -> list[Any]:
    text = (FEATURES / name).read_text()
    found = []
    for part in re.split(r"\n\s*Scenario(?: Outline)?: ", text)[1:]:
        body, _, examples = part.partition("Examples:")
        rows = [row.strip().strip("|").strip() for row in examples.strip().splitlines()]
        for row in rows[1:] or [""]:
            scenario = Scenario(part.splitlines()[0], body.replace(f"<{rows[0]}>", row) if rows else body)
            found.append(pytest.param(scenario, id=scenario.name.replace("<contentType>", row)))
    return found


@pytest.mark.parametrize("scenario", scenarios("http-protocol-binding.feature"))
def test_http(scenario: Scenario) -> None:
    request, data = scenario.blocks
    head, _, body = request.partition("\n\n")
    headers = [tuple(line.split(": ", 1)) for line in head.splitlines()[1:]]
    check(http.decode(headers, body.encode())[0], scenario.tables[0], data)


@pytest.mark.parametrize("scenario", scenarios("kafka-protocol-binding.feature"))
def test_kafka(scenario: Scenario) -> None:
    payload, data = scenario.blocks
    headers = [(name, value.encode()) for name, value in scenario.tables[0]]
    check(kafka.decode(headers, payload.encode())[0], scenario.tables[1], data)


def test_the_features_are_whole() -> None:
    assert len(scenarios("http-protocol-binding.feature")) == 4
    assert len(scenarios("kafka-protocol-binding.feature")) == 3


def check(event: Event, expected: list[tuple[str, ...]], data: str) -> None:
    assert event.attributes == {name: value for name, value in expected}  # noqa: C416 - rows are tuples of cells
    assert event.data == json.loads(data)


def replays() -> list[Any]:
    found = []
    for name in ("v1.yaml", "v1_minimum.yaml"):
        documents = yaml.load_all((REPLAYS / name).read_text(), Loader=yaml.BaseLoader)
        found += [
            pytest.param(document, id=f"{name} {document['ContextAttributes']['id']} {index}")
            for index, document in enumerate(documents)
        ]
    return found


@pytest.mark.parametrize("replay", replays())
@pytest.mark.parametrize("binding", [http, kafka, nats, mqtt], ids=["http", "kafka", "nats", "mqtt"])
def test_the_events_of_the_replay_files_travel(replay: dict[str, Any], binding: Any) -> None:
    attributes = dict(replay["ContextAttributes"])
    extensions = {name: value.strip("\n") for name, value in attributes.pop("Extensions", {}).items()}
    attributes.pop("specversion")
    data = replay["Data"].encode()
    event = Event(data=data, **attributes, **extensions)
    for message in (binding.binary(event), binding.structured(event)):
        [back] = binding.decode(*message)
        assert back == event
        assert back.raw is not None
        assert back.raw.strip() == data.strip()
    assert len(replays()) == 8
