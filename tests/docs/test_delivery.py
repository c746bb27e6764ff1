"""docs/delivery.md: every test that it names exists, and its suite for others' stores runs as written."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_code_blocks import ROOT, blocks

PAGE = ROOT / "docs" / "delivery.md"
PLACES = (ROOT / "tests", ROOT / "src/headrace/testing/conformance")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", PAGE.read_text())))


def test_the_page_names_tests() -> None:
    assert len(NAMED) > 40


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[f"{file}-{name}" for file, name in NAMED])
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    found = [place / file for place in PLACES if (place / file).exists()]
    assert found, f"{file} is not there"
    defined = {node.name for node in ast.walk(ast.parse(found[0].read_text())) if hasattr(node, "name")}
    assert not name or name in defined, f"{file} has no {name}"


def test_the_suite_for_a_store_of_ones_own_runs_as_it_is_written(tmp_path: Path) -> None:
    (code,) = [code for _, code in blocks(PAGE, "python") if "Conformance" in code]
    (tmp_path / "test_mine.py").write_text(code)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", "test_mine.py"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", run.stdout)[0]) > 20
