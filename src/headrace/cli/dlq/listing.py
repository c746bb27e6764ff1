"""``headrace dlq ls`` and ``show``."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.dlq.selection import STATES, Selection, app_option, json_option, selecting

if TYPE_CHECKING:
    from headrace.engine.dead_letters import DeadLetter

__all__ = ["ls", "row", "show"]


@click.command("ls")
@json_option
@selecting
def ls(app: str, selection: Selection, as_json: bool) -> int:
    """List letters, oldest first: all that are not finished, or those that are chosen."""
    return asyncio.run(_ls(app, selection, as_json))


@click.command("show")
@app_option
@json_option
@click.argument("id")
def show(app: str, id: str, as_json: bool) -> int:
    """Show one letter: where it came from, why it is here, its attempts, its event, what was done to it."""
    return asyncio.run(_show(app, id, as_json))


def row(letter: DeadLetter) -> dict[str, Any]:
    """A letter in one line: the schema of ``dlq ls --json``."""
    return {
        "id": letter.id,
        "app": letter.app,
        "handler": letter.handler,
        "state": letter.state,
        "type": letter.event_type,
        "source": letter.event_source,
        "event_id": letter.event_id,
        "subject": letter.subject,
        "key": letter.key,
        "reason": letter.reason,
        "exception": letter.exception,
        "attempts": letter.attempts,
        "first_seen": letter.first_seen,
        "last_seen": letter.last_seen,
        "replay": letter.replay,
        "replay_of": letter.replay_of,
        "edited": letter.edited is not None,
        "origin": letter.origin,
    }


async def _ls(app: str, selection: Selection, as_json: bool) -> int:
    from headrace.cli.dlq.opening import opened

    found = 0
    async with opened(app) as letters:
        async for stored in selection.find(letters.store, letters.app, states=("dead", "replaying")):
            found += 1
            shown = row(stored.letter)
            if as_json:
                click.echo(json.dumps(shown))
                continue
            if found == 1:
                click.echo(_line("id", "last seen", "handler", "state", "tries", "type", "reason"))
            when = _when(shown["last_seen"])
            reason = " ".join(shown["reason"].split())[:60]
            click.echo(
                _line(shown["id"], when, shown["handler"], shown["state"], shown["attempts"], shown["type"], reason)
            )
    if not found:
        click.echo("headrace: no dead letters match" if selection.narrow else "headrace: no dead letters", err=True)
    return 3 if selection.narrow and not found else 0


def _line(id: str, when: str, handler: str, state: str, attempts: Any, type: str, reason: str) -> str:
    return f"{id:<24}  {when:<19}  {handler:<16}  {state:<9}  {attempts!s:>5}  {type:<20}  {reason}".rstrip()


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


async def _show(app: str, id: str, as_json: bool) -> int:
    from headrace.cli.dlq.opening import opened

    async with opened(app) as letters:
        found = Selection(ids=(id,), limit=2).find(letters.store, letters.app, states=STATES)
        chosen = [stored async for stored in found]
    if len(chosen) != 1:
        which = "more than one" if chosen else "no"
        click.echo(f"headrace: {which} dead letter has an id that begins with {id}", err=True)
        return 3
    letter = chosen[0].letter
    click.echo(_as_json(letter) if as_json else "\n".join(_in_words(letter)))
    return 0


def _as_json(letter: DeadLetter) -> str:
    import msgspec

    from headrace.engine.edits import difference

    event = letter.event
    return json.dumps(
        {
            **row(letter),
            "message": letter.message,
            "traceback": letter.traceback,
            "transport": letter.source,
            "event": None if event is None else json.loads(event.to_json()),
            "headers": [[name, value.decode("utf-8", "backslashreplace")] for name, value in letter.headers],
            "body_base64": msgspec.to_builtins(letter.body),
            "errors": [
                {"at": error.at, "exception": error.exception, "message": error.message} for error in letter.errors
            ],
            "difference": difference(letter),
            "audit": [
                {"at": one.at, "action": one.action, "by": one.by, "reason": one.reason, "detail": one.detail}
                for one in letter.audit
            ],
        }
    )


def _in_words(letter: DeadLetter) -> list[str]:
    from headrace.engine.edits import difference

    origin = " ".join(f"{name}={value}" for name, value in letter.origin.items())
    lines = [
        f"letter     {letter.id}",
        f"state      {letter.state}",
        f"handler    {letter.app} {letter.handler}",
        f"reason     {letter.reason}",
        f"came from  {letter.source} {origin}",
        f"key        {'' if letter.key is None else letter.key}",
        f"attempts   {letter.attempts}, first {_when(letter.first_seen)}, last {_when(letter.last_seen)}",
    ]
    if letter.replay:
        lines.append(f"replay     number {letter.replay}, of letter {letter.replay_of}")
    lines += [f"  failed   {_when(error.at)}  {error.exception}: {error.message}" for error in letter.errors]
    for one in letter.audit:
        lines.append(f"  {one.action:<8} {_when(one.at)}  by {one.by}" + (f": {one.reason}" if one.reason else ""))
    event = letter.event
    lines.append("")
    if letter.gone:
        lines.append("its bytes did not fit into the broker, and are gone from where they came from")
    elif event is None:
        lines.append(f"no event, but the bytes {letter.body!r}")
    else:
        lines += [f"  {name:<16} {value}" for name, value in event.attributes.items()]
        lines += ["", (event.raw or b"").decode("utf-8", "backslashreplace")]
    changed = difference(letter)
    if changed:
        lines += ["", "edited:", changed]
    if letter.traceback:
        lines += ["", letter.traceback.rstrip()]
    return lines
