"""`make test-long` leaves no long test out, and the docs say when each part ran last."""

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


def test_the_last_run_of_every_part_is_recorded() -> None:
    page = (ROOT / "docs" / "long-tests.md").read_text()
    for part in (*parts(), "cloudevents"):
        assert re.search(rf"^\| `make test-long-{part}` \|.*\b20\d\d-\d\d-\d\d\b", page, re.MULTILINE), part
