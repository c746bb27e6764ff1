"""The correctness table of docs/kubernetes.md: every row names a test, and every test that is named exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "kubernetes.md").read_text().partition("## Correctness")[2].partition("## Long runs")[0]
ROWS = [row for row in TABLE.splitlines() if row.startswith("| ") and not row.startswith("| requirement")]


@cache
def defined_in(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_tests_that_exist(row: str) -> None:
    named = re.findall(r"`([\w./]+\.py)::(\w+)`", row)
    assert named
    for file, test in named:
        path = ROOT / file if file.startswith("tests/") else ROOT / "tests" / "kubernetes" / file
        assert test in defined_in(path), f"{file}::{test}"


def test_the_table_is_long_enough_to_mean_something() -> None:
    assert len(ROWS) > 60
