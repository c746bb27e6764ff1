"""`make test-long` leaves no long test out."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def parts() -> set[str]:
    """The parts that the Makefile names."""
    found = re.search(r"^LONG := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return set(found[1].split())


def test_every_folder_with_long_tests_is_a_part_of_test_long() -> None:
    marked = {
        path.relative_to(ROOT / "tests").parts[0]
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark.long" in path.read_text() and path != Path(__file__)
    }
    assert parts() == marked
