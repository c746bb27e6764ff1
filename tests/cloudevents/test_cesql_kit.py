"""The CESQL conformance kit: every case is a test of its own."""

import json
from typing import Any

import pytest

from headrace import Event
from headrace.cloudevents import filters, sql
from headrace.errors import InvalidExpression
from tests.cloudevents.vectors import vectors


def cases() -> list[Any]:
    kit = json.loads((vectors("cesql-tck") / "tck.normalized.json").read_text())
    return [pytest.param(case, id=f"{case['file'].removesuffix('.yaml')}: {case['name']}") for case in kit]


def has_prefix(text: str, prefix: str) -> bool:
    return text.startswith(prefix)


def concatenate(*texts: str) -> str:
    return "".join(texts)


FUNCTIONS = {"HASPREFIX": has_prefix, "KONKAT": concatenate}


def input_event(case: dict[str, Any]) -> Event:
    least = {"specversion": "1.0", "id": "an-id", "source": "http://localhost/source", "type": "a.type"}
    return Event.from_json(json.dumps(case.get("event") or {**least, **case.get("eventOverrides", {})}))


@pytest.mark.parametrize("case", cases())
def test_the_kit(case: dict[str, Any]) -> None:
    functions = FUNCTIONS if "needsUserFunctions" in case else {}
    if case.get("error") == "parse":
        with pytest.raises(InvalidExpression) as raised:
            sql.parse(case["expression"])
        assert raised.value.kind == "parse"
        return
    result = sql.parse(case["expression"]).evaluate(input_event(case), functions)
    # One case contradicts the text of CESQL 1.0 (3.7, Integer to Boolean); it is marked, and the text is followed.
    if "disputed" in case:
        assert (result.value, result.errors) == (case["resultPerSpecV1"], ())
        return
    assert [error.kind for error in result.errors] == ([case["error"]] if "error" in case else [])
    assert result.value == case["result"]
    assert type(result.value) is type(case["result"])


@pytest.mark.parametrize("case", cases())
def test_as_a_filter_only_true_without_error_matches(case: dict[str, Any]) -> None:
    functions = FUNCTIONS if "needsUserFunctions" in case else {}
    if case.get("error") in ("parse", "missingFunction"):
        with pytest.raises(ValueError, match=r"character|does not exist"):
            filters.compile([{"sql": case["expression"]}])
        return
    chosen = filters.compile([{"sql": case["expression"]}], functions=functions)
    wanted = case.get("resultPerSpecV1", case["result"]) is True and "error" not in case
    assert chosen(input_event(case)) is wanted


def test_the_kit_is_whole() -> None:
    kit = cases()
    assert len(kit) == 283
    assert sum("needsUserFunctions" in case.values[0] for case in kit) == 8
    assert sum("disputed" in case.values[0] for case in kit) == 1
