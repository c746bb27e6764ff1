"""The command line: one file a command, imported only when it is called, so that ``headrace --help`` is quick.

Errors of ours end as one clear sentence on stderr with the exit code of their class; a traceback means a defect.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from headrace import __version__
from headrace.errors import HeadraceError

__all__ = ["main"]

#: Name → what its help says; the module of the same name in this package holds the command as ``command``.
COMMANDS = {
    "dev": "Run an app with an embedded NATS server, reloading on changes.",
    "run": "Run an app in production, in the foreground.",
    "demo": "An order flow end to end, with no set-up.",
    "check": "Validate an app and say in words what it will do.",
    "send": "Build an event and send it.",
    "tail": "Show events as they come.",
    "dlq": "List, show, replay and drop dead letters.",
}


class Commands(click.Group):
    """Knows the commands by name; imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"headrace.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"auto_envvar_prefix": "HEADRACE", "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="headrace")
def headrace() -> None:
    """Headrace brings events to handlers.

    APP is module:attribute (the current folder is on the import path) or a file.
    Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 partial or nothing matched, 4 cannot connect, 5 refused,
    70 drain timed out or watchdog, 130 interrupted.
    """


def main() -> None:
    """The console script."""
    try:
        code = headrace(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except HeadraceError as error:
        click.echo(f"headrace: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        code = 0
    sys.exit(code if isinstance(code, int) else 0)
