"""docs/delivery.md: its suite for others' stores runs as written."""

import re
import subprocess
import sys
from pathlib import Path

from tests.docs.test_code_blocks import ROOT, blocks

PAGE = ROOT / "docs" / "delivery.md"


def test_the_suite_for_a_store_of_ones_own_runs_as_it_is_written(tmp_path: Path) -> None:
    (code,) = [code for _, code in blocks(PAGE, "python") if "Conformance" in code]
    (tmp_path / "test_mine.py").write_text(code)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", "test_mine.py"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", run.stdout)[0]) > 20
