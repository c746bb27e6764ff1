"""Filters: every dialect, and what is refused when the app starts."""

import json
from typing import Any

import pytest

from headrace import Event
from headrace.cloudevents import filters
from headrace.errors import InvalidFilter
from tests.cloudevents.vectors import vectors

EVENT = Event(
    type="com.github.push",
    source="https://github.com/cloudevents/spec",
    subject="/cloudevents/spec",
    id="1",
    count=17,
    flag=True,
    blob=b"\x00\x01",
)


def matches(*each: dict[str, Any]) -> bool:
    return filters.compile(list(each))(EVENT)


@pytest.mark.parametrize(
    ("dialect", "yes", "no"),
    [
        ("exact", "com.github.push", "com.github"),
        ("exact", "com.github.push", "COM.GITHUB.PUSH"),
        ("prefix", "com.github.", "github"),
        ("prefix", "com.github.push", "Com."),
        ("suffix", ".push", "github"),
        ("suffix", "com.github.push", ".PUSH"),
    ],
)
def test_a_term_compares_with_regard_to_case(dialect: str, yes: str, no: str) -> None:
    assert matches({dialect: {"type": yes}})
    assert not matches({dialect: {"type": no}})


@pytest.mark.parametrize("dialect", ["exact", "prefix", "suffix"])
def test_all_members_of_a_term_must_match(dialect: str) -> None:
    both = {"type": EVENT.type, "subject": "/cloudevents/spec"}
    assert matches({dialect: both})
    assert not matches({dialect: {**both, "subject": "x"}})
    assert matches({dialect: {**both, "source": EVENT.source, "id": "1"}})
    assert not matches({dialect: {**both, "source": EVENT.source, "id": "2"}})


@pytest.mark.parametrize("dialect", ["exact", "prefix", "suffix"])
def test_a_missing_attribute_never_matches(dialect: str) -> None:
    assert not matches({dialect: {"missing": "x"}})


@pytest.mark.parametrize(("name", "text"), [("count", "17"), ("flag", "true"), ("blob", "AAE=")])
@pytest.mark.parametrize("dialect", ["exact", "prefix", "suffix"])
def test_values_are_compared_by_canonical_string(dialect: str, name: str, text: str) -> None:
    assert matches({dialect: {name: text}})
    assert not matches({dialect: {name: text.upper() + "x"}})


def test_all_any_and_not_nest() -> None:
    yes, no = {"exact": {"id": "1"}}, {"exact": {"id": "2"}}
    assert matches({"all": [yes, yes, yes, yes]})
    assert not matches({"all": [yes, yes, yes, no]})
    assert matches({"any": [no, yes]})
    assert not matches({"any": [no, no]})
    assert matches({"not": no})
    assert not matches({"not": yes})
    assert matches({"not": {"all": [yes, {"any": [no, {"not": yes}]}]}})


def test_an_array_is_and_and_an_empty_array_takes_everything() -> None:
    yes, no = {"exact": {"id": "1"}}, {"exact": {"id": "2"}}
    assert matches()
    for count in range(1, 6):
        assert matches(*[yes] * count)
        assert not matches(*[yes] * (count - 1), no)


@pytest.mark.parametrize("dialect", ["sql", "cesql"])
def test_sql_matches_where_it_is_true_without_an_error(dialect: str) -> None:
    assert matches({dialect: "type LIKE 'com.github.%' AND count = 17"})
    for expression in (
        "FALSE",
        "1",
        "'true'",
        "missing = 'x'",
        "1 / 0 = 0",
        "INT('x') = 0",
        "subject",
        "missing",
        "NOT missing",
    ):
        assert not matches({dialect: expression})


def test_sql_takes_functions_of_the_user() -> None:
    def shorter(text: str, count: int) -> bool:
        return len(text) < count

    chosen = filters.compile([{"sql": "SHORTER(type, 100)"}], functions={"SHORTER": shorter})
    assert chosen(EVENT)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"regex": {"type": "x"}}, "'regex' is not known"),
        ({}, "one member"),
        ({"exact": {"id": "1"}, "prefix": {"id": "1"}}, "one member"),
        ({"exact": {}}, "at least one"),
        ({"exact": "x"}, "at least one"),
        ({"exact": []}, "at least one"),
        ({"exact": {"": "x"}}, "attribute name"),
        ({"exact": {"Type": "x"}}, "attribute name"),
        ({"exact": {5: "x"}}, r"filters\[0\]\.exact"),
        ({"prefix": {"type": ""}}, "not empty"),
        ({"suffix": {"type": 5}}, r"filters\[0\]\.suffix\.type"),
        ({"all": []}, "at least one"),
        ({"any": []}, "at least one"),
        ({"all": {"exact": {"id": "1"}}}, "array"),
        ({"any": "x"}, "array"),
        ({"not": []}, "object"),
        ({"not": {}}, "one member"),
        ({"sql": ""}, "expected a value"),
        ({"sql": 5}, "expression"),
        ({"sql": "type LIKE"}, r"(?s)pattern of LIKE.*\^"),
        ({"sql": "MISSING(1)"}, "MISSING with 1 arguments"),
        ({"sql": "TRUE OR LENGTH()"}, "LENGTH with 0 arguments"),
        ("x", "object"),
        ({"all": [{"exact": {"id": "1"}}, {"any": [{"nope": 1}]}]}, r"filters\[0\]\.all\[1\]\.any\[0\]\.nope"),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_its_place(bad: Any, message: str) -> None:
    with pytest.raises(InvalidFilter, match=message):
        filters.compile([bad])


@pytest.mark.parametrize("bad", [{"exact": {"id": "1"}}, "sql", None, 5])
def test_filters_are_an_array(bad: Any) -> None:
    with pytest.raises(InvalidFilter, match="array"):
        filters.compile(bad)


def test_filters_nested_beyond_reason_are_refused() -> None:
    nested: dict[str, Any] = {"exact": {"id": "1"}}
    for _ in range(10_000):
        nested = {"not": nested}
    with pytest.raises(InvalidFilter, match="deep"):
        filters.compile([nested])


def test_the_examples_of_the_document_compile() -> None:
    directory = vectors("spec-examples")
    for number in ("04", "05", "06", "07", "08", "09", "10"):
        filters.compile([json.loads((directory / f"subscriptions-{number}.json").read_text())])
    subscription = json.loads((directory / "subscriptions-02.json").read_text())
    assert filters.compile(subscription["filters"])(EVENT.replace(type="com.example.x"))
