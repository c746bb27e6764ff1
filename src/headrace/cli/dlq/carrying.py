"""``headrace dlq export`` and ``import``: letters as JSON, one a line, byte for byte."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import IO, Any

import click

from headrace.cli.dlq.selection import STATES, Selection, app_option, json_option, reason_option, selecting

__all__ = ["export", "import_"]


@click.command("export")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="A file (stdout).")
@selecting
def export(app: str, selection: Selection, output: str | None) -> int:
    """Write letters as JSON, one a line, in whatever state they are: with their bytes, history and audit."""
    if output is None:
        count = asyncio.run(_export(app, selection, sys.stdout.buffer))
    else:
        # The file appears whole or not at all.
        part = Path(f"{output}.part")
        try:
            with part.open("wb") as file:
                count = asyncio.run(_export(app, selection, file))
            part.replace(output)
        except OSError as error:
            raise click.BadParameter(f"{output}: {error.strerror}", param_hint="--output") from None
    click.echo(f"headrace: {count} dead letters exported", err=True)
    return 0 if count or not selection.narrow else 3


@click.command("import")
@app_option
@click.option("--dry-run", is_flag=True, help="Only check the file.")
@reason_option
@json_option
@click.argument("file", default="-")
def import_(app: str, file: str, **options: Any) -> int:
    """Take in letters that were exported from this app elsewhere: FILE, or stdin. What is there already stays as it is."""
    if file == "-":
        return asyncio.run(_import(app, sys.stdin.buffer, **options))
    try:
        with Path(file).open("rb") as lines:
            return asyncio.run(_import(app, lines, **options))
    except OSError as error:
        raise click.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from None


async def _export(app: str, selection: Selection, file: IO[bytes]) -> int:
    import msgspec

    from headrace.cli.dlq.opening import opened

    count = 0
    async with opened(app) as letters:
        async for stored in selection.find(letters.store, letters.app, states=STATES):
            file.write(msgspec.json.encode(stored.letter) + b"\n")
            count += 1
    file.flush()
    return count


async def _import(app: str, lines: IO[bytes], *, dry_run: bool, reason: str, as_json: bool) -> int:
    import msgspec

    from headrace.cli.dlq.opening import opened
    from headrace.cli.operator import operator
    from headrace.engine.dead_letters import DeadLetter
    from headrace.engine.replays import import_letter

    decode = msgspec.json.Decoder(DeadLetter).decode
    taken = refused = 0
    async with opened(app) as letters:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            id = ""
            try:
                letter = decode(line)
                id = letter.id
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                problem = f"it is no dead letter: {error}"
            else:
                if letter.app != letters.app:
                    problem = f"it is a letter of app {letter.app!r}, not of {letters.app!r}"
                elif dry_run:
                    problem = ""
                else:
                    problem = await import_letter(letters.store, letter, by=operator(), reason=reason)
            if problem:
                refused += 1
                click.echo(f"headrace: line {number}: {problem}", err=True)
            else:
                taken += 1
            if as_json:
                click.echo(json.dumps({"line": number, "id": id, "action": "import", "problem": problem}))
    verb = "could be imported" if dry_run else "imported"
    click.echo(f"headrace: {taken} dead letters {verb}, {refused} refused", err=True)
    return 3 if refused or not taken else 0
