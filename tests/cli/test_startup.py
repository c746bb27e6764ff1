"""What importing and asking for help may load: held by module names, since times depend on the machine."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.cli.overview import COMMANDS
from tests.cli.command import Command


def loaded(code: str) -> set[str]:
    """The modules that a new interpreter has after running the code."""
    code += "\nimport sys; sys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("heavy", ["asyncio", "msgspec", "logging", "inspect", "ssl", "click", "headrace.worker"])
def test_importing_the_public_names_loads_nothing_heavy(heavy: str) -> None:
    assert heavy not in loaded("import headrace; headrace.App('shop'); headrace.Event, headrace.Reject")


@pytest.mark.parametrize("heavy", ["asyncio", "click", "typing", "re", "msgspec"])
def test_help_loads_nothing_but_its_text(heavy: str) -> None:
    assert heavy not in loaded("import sys; sys.argv = ['headrace', '--help']\nfrom headrace.cli import main; main()")


@pytest.mark.parametrize("heavy", ["asyncio", "click", "typing", "re", "json", "dataclasses", "tempfile", "logging"])
def test_the_supervisor_of_workers_is_light(heavy: str) -> None:
    assert heavy not in loaded("import sys; sys.argv = ['headrace', 'run']\nimport headrace.cli.supervising")


def test_help_names_every_command_and_the_exit_codes() -> None:
    done = subprocess.run([sys.executable, "-m", "headrace", "--help"], capture_output=True, text=True, check=True)
    for name, text in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert text in done.stdout
    assert "130 interrupted" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_overview_exists(name: str) -> None:
    assert importlib.import_module(f"headrace.cli.{name}").command.name == name


def test_every_option_has_an_environment_variable() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "dlq", "replay", "--help"], capture_output=True, text=True, check=True
    )
    words = " ".join(done.stdout.split())
    for variable in ("HEADRACE_DLQ_REPLAY_RATE", "HEADRACE_DLQ_REPLAY_DRY_RUN", "HEADRACE_JSON", "HEADRACE_APP"):
        assert variable in words


def test_a_sigterm_while_the_app_is_imported_ends_with_0(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "importing")
    (tmp_path / "slow_app.py").write_text("open('importing', 'w').close()\nimport time\ntime.sleep(60)\n")
    running = Command(tmp_path).start("run", "slow_app.py")
    (tmp_path / "importing").read_text()  # returns when the worker has opened its end
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 0, errors
