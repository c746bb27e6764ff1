"""``headrace new``: what it makes works, and it overwrites nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import Command


@pytest.fixture
def made(tmp_path: Path) -> Path:
    done = Command(tmp_path)("new", "shop")
    assert done.code == 0, done.err
    assert "shop/app.py" in done.out.splitlines()
    return tmp_path / "shop"


def test_the_scaffolded_test_passes(made: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(made)]
    done = subprocess.run(command, cwd=made, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_scaffolded_app_is_checked_and_named_as_asked(made: Path) -> None:
    done = Command(made)("check", "app.py")
    assert done.code == 0, done.err
    assert "handler bill: reads order.created, in order per key" in done.out


def test_the_image_holds_what_the_app_needs_and_runs_as_a_user(made: Path) -> None:
    lines = (made / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("COPY")]
    allowed = [line[1:] for line in (made / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(allowed)
    assert all((made / name).exists() for name in copied)
    assert "USER 10001:10001" in lines
    assert lines[-1] == 'CMD ["headrace", "run", "app:app"]'


def test_the_requirements_are_for_the_broker_that_was_asked_for(tmp_path: Path) -> None:
    done = Command(tmp_path)("new", "shop", "--broker", "kafka", "--folder", "elsewhere", "--json")
    assert {"file": "elsewhere/app.py"} in done.objects
    assert (tmp_path / "elsewhere" / "requirements.txt").read_text() == "headrace[kafka]\n"


def test_a_folder_that_holds_something_is_refused_and_left_alone(made: Path, tmp_path: Path) -> None:
    (made / "app.py").write_text("mine")
    done = Command(tmp_path)("new", "shop")
    assert done.code == 5
    assert "shop is not empty" in done.err
    assert (made / "app.py").read_text() == "mine"


@pytest.mark.parametrize("name", ["a b", "a__b", "-a", ""])
def test_a_name_that_cannot_name_a_consumer_is_a_usage_error(tmp_path: Path, name: str) -> None:
    done = Command(tmp_path)("new", "--", name)
    assert done.code == 2
    assert "a name is letters, digits and _" in done.err
    assert list(tmp_path.iterdir()) == []
