"""A user's file with the whole surface passes mypy strict, and each mistake in another one is told."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def mypy(tmp_path: Path, file: Path) -> list[str]:
    """Errors of the file, one a line, as an installed package's user sees them: with none of our own settings."""
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--no-error-summary",
            "--follow-imports=silent",
            f"--cache-dir={ROOT / '.mypy_cache' / 'typing'}",
            str(file),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert checked.returncode in (0, 1), checked.stderr
    return [line for line in checked.stdout.splitlines() if file.name in line and ": error: " in line]


def test_a_users_file_with_the_whole_surface_passes_mypy_strict(tmp_path: Path) -> None:
    assert mypy(tmp_path, HERE / "surface.py") == []


def test_each_mistake_is_told_where_it_is_made(tmp_path: Path) -> None:
    file = HERE / "mistakes.py"
    expected = Counter(
        (number, found[1])
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if (found := re.search(r"# expect: ([\w-]+)", line))
    )
    told: Counter[tuple[int, str]] = Counter()
    for line in mypy(tmp_path, file):
        found = re.search(r":(\d+): error: .*\[([\w-]+)\]$", line)
        assert found, line
        told[int(found[1]), found[2]] += 1
    assert told == expected
