"""What importing and asking for help may load: held by module names, since times depend on the machine."""

import importlib
import subprocess
import sys

import pytest

from headrace.cli.overview import COMMANDS


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
