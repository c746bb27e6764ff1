"""``headrace dlq``: dead letters, listed, shown, edited, replayed, dropped, carried elsewhere.

It works beside the running app, through the store that keeps the letters. Every change is compare-and-set and goes into
the letter's audit with who, when and why; docs/dead-letters.md says what each command prints.
"""

from __future__ import annotations

import click

from headrace.cli.dlq.acting import drop, replay
from headrace.cli.dlq.carrying import export, import_
from headrace.cli.dlq.editing import edit
from headrace.cli.dlq.listing import ls, show

__all__ = ["command"]


@click.group("dlq")
def command() -> None:
    """Look after dead letters.

    Letters are chosen by id (or the beginning of one) and by --handler, --where, --error, --state; without any of them all
    that are not finished are meant.
    """


for one in (ls, show, edit, replay, drop, export, import_):
    command.add_command(one)
