"""Pages that say which test holds what: every row of their tables names one, and every test that is named exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Page, the heading its tables stand below and the one that ends them, where its tests lie, and the rows it has at least.
TABLES = [
    ("cloudevents.md", "## Conformance", "## Long runs", "tests/cloudevents", 150),
    ("kubernetes.md", "## Correctness", "## Long runs", "tests/kubernetes", 60),
]
PLACES = ("", "tests", "src/headrace/testing/conformance")
_HEADS = ("| requirement", "| promise")


def rows(page: str, begin: str, end: str) -> list[str]:
    """The rows of the tables between two headings."""
    text = (ROOT / "docs" / page).read_text().partition(begin)[2].partition(end)[0]
    return [row for row in text.splitlines() if row.startswith("| ") and not row.startswith(_HEADS)]


ROWS = [(row, folder) for page, begin, end, folder, _ in TABLES for row in rows(page, begin, end)]
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "delivery.md").read_text())))


@cache
def defined_in(path: Path) -> set[str]:
    """The functions and classes of a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


def exists(file: str, name: str, *places: str) -> None:
    """Fails where no place has the file, or it has no such test."""
    found = [ROOT / place / file for place in places if (ROOT / place / file).exists()]
    assert found, f"{file} is not there"
    assert not name or name in defined_in(found[0]), f"{file} has no {name}"


@pytest.mark.parametrize(("row", "folder"), ROWS)
def test_a_row_names_tests_that_exist(row: str, folder: str) -> None:
    named = re.findall(r"`([\w./]+\.py)::(\w+)`", row)
    assert named
    for file, name in named:
        exists(file, name, folder, "")


@pytest.mark.parametrize(("page", "begin", "end", "folder", "least"), TABLES)
def test_a_table_is_long_enough_to_mean_something(page: str, begin: str, end: str, folder: str, least: int) -> None:
    assert len(rows(page, begin, end)) > least


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_the_promise_names_exists(file: str, name: str) -> None:
    exists(file, name, *PLACES)


def test_the_promise_names_tests() -> None:
    assert len(NAMED) > 40
