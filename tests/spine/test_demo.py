"""The packaged demo, from outside."""

import subprocess
import sys
from pathlib import Path


def test_the_demos_sums_agree(tmp_path: Path) -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "headrace", "demo", "--orders", "800"], cwd=tmp_path, capture_output=True, text=True
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "all accounted for" in demo.stdout
