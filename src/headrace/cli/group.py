"""The group of all commands: one file a command, imported only when it is called.

Errors of ours end as one clear sentence on stderr with the exit code of their class; a traceback means a defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import click

from headrace import __version__
from headrace.cli.overview import COMMANDS, overview
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.cli.supervising import Place

__all__ = ["headrace", "invoke"]


class Commands(click.Group):
    """Knows the commands by name; imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"headrace.cli.{cmd_name}").command
        _name_variables(command)
        return command

    def get_help(self, ctx: click.Context) -> str:
        return overview().rstrip()


#: Options that stand for a setting of the app; its variable is resolved with the app's other settings.
SETTINGS = ("broker", "store", "admin", "http", "log")


def _name_variables(command: click.Command) -> None:
    """Have the help name each option's environment variable; ``--json`` has one for all commands."""
    for parameter in command.params:
        if not isinstance(parameter, click.Option) or parameter.name in SETTINGS:
            continue
        parameter.show_envvar = True
        if parameter.name == "as_json":
            parameter.envvar = "HEADRACE_JSON"
    if isinstance(command, click.Group):
        for one in command.commands.values():
            _name_variables(one)


@click.group(cls=Commands, context_settings={"auto_envvar_prefix": "HEADRACE", "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="headrace")
def headrace() -> None:
    """Headrace brings events to handlers."""


def invoke(arguments: Sequence[str] | None = None, *, place: Place | None = None) -> int:
    """Run the command of these arguments (``sys.argv``); the exit code. ``place``: for ``run``, under its supervisor."""
    try:
        code = headrace(arguments, standalone_mode=False, obj=place)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except HeadraceError as error:
        click.echo(f"headrace: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        return 0
    return code if isinstance(code, int) else 0
