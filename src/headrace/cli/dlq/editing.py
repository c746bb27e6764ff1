"""``headrace dlq edit``: another event in the place of the letter's, which is kept with the difference."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.dlq.selection import Selection, app_option, json_option, reason_option

if TYPE_CHECKING:
    from headrace.engine.dead_letters import DeadLetter
    from headrace.event import Event

__all__ = ["edit"]


@click.command("edit")
@app_option
@click.option("-d", "--data", help="New data: text, @FILE, or - for stdin.")
@click.option("--ext", multiple=True, help="An attribute as name=value, name= to remove it; may be repeated.")
@click.option("--event", help="The whole event in the JSON format: @FILE, or - for stdin.")
@click.option("--dry-run", is_flag=True, help="Only show the difference.")
@reason_option
@json_option
@click.argument("id")
def edit(app: str, id: str, **options: Any) -> int:
    """Change a letter's event before it is replayed: by options, or in $EDITOR without any."""
    return asyncio.run(_edit(app, id, **options))


async def _edit(
    app: str,
    id: str,
    *,
    data: str | None,
    ext: tuple[str, ...],
    event: str | None,
    dry_run: bool,
    reason: str,
    as_json: bool,
) -> int:
    from headrace.cli.dlq.opening import opened
    from headrace.cli.operator import operator
    from headrace.engine.edits import edit_letter, proposed

    async with opened(app) as letters:
        found = Selection(ids=(id,), limit=2).find(letters.store, letters.app, states=("dead", "replaying"))
        chosen = [stored async for stored in found]
        if len(chosen) != 1:
            which = "more than one" if chosen else "no"
            click.echo(f"headrace: {which} unfinished dead letter has an id that begins with {id}", err=True)
            return 3
        stored = chosen[0]
        edited = _edited(stored.letter, data, ext, event)
        changed = proposed(stored.letter, edited)
        problem = "" if dry_run else await edit_letter(letters.store, stored, edited, by=operator(), reason=reason)
    if problem:
        click.echo(f"headrace: {stored.letter.id}: {problem}", err=True)
        return 3
    if as_json:
        click.echo(json.dumps({"id": stored.letter.id, "action": "edit", "dry_run": dry_run, "difference": changed}))
    else:
        click.echo(changed)
    return 0


def _edited(letter: DeadLetter, data: str | None, ext: tuple[str, ...], whole: str | None) -> Event:
    """The event that the options make of the letter's. Raises `InvalidEvent` where they make none."""
    from headrace.engine.edits import document
    from headrace.event import Event

    if whole is not None:
        return Event.from_json(_read(whole, "--event"))
    if data is None and not ext:
        text = click.edit(document(letter), extension=".json")
        if text is None:
            raise click.Abort
        return Event.from_json(text.encode())
    event = letter.event or Event.from_json(document(letter).encode())
    changes: dict[str, Any] = {}
    for pair in ext:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is not name=value", param_hint="--ext")
        changes[name] = value or None
    if data is not None:
        changes["data"] = _read(data, "--data")
    return event.replace(**changes)


def _read(given: str, option: str) -> bytes:
    if given == "-":
        return sys.stdin.buffer.read()
    if given.startswith("@"):
        try:
            return Path(given[1:]).read_bytes()
        except OSError as error:
            raise click.BadParameter(f"{given[1:]}: {error.strerror}", param_hint=option) from None
    return given.encode()
