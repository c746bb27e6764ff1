"""The standards' test data, read from where it lies (`HEADRACE_SHARED`, by default `../shared` beside the repository)."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def vectors(name: str) -> Path:
    """A directory of the vectors; the test is skipped where it is missing (in CI that is a failure)."""
    shared = Path(os.environ.get("HEADRACE_SHARED", "../shared"))
    path = (shared if shared.is_absolute() else ROOT / shared) / "vectors" / name
    if not path.exists():
        pytest.skip(f"no test vectors at {path}: set HEADRACE_SHARED", allow_module_level=True)
    return path
