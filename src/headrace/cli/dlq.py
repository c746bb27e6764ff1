"""``headrace dlq``: dead letters, listed, shown, replayed, dropped."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import click

__all__ = ["command"]


@click.group("dlq")
def command() -> None:
    """List, show, replay and drop dead letters."""


def _selection(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose letters."""
    for option in (
        click.option(
            "--app", required=True, envvar="HEADRACE_APP", help="module:attribute, a file, or the app's name."
        ),
        click.option("--handler", help="Only letters of this handler."),
        click.option("--where", help="Only letters whose event this CESQL expression holds for."),
        click.option("--state", help="Only letters in this state (dead, replaying, replayed, dropped)."),
        click.option("--limit", type=click.IntRange(min=1), help="At most so many."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object a line."),
        click.argument("ids", nargs=-1),
    ):
        function = option(function)
    return function


@command.command("ls")
@_selection
def ls(app: str, **selection: Any) -> int:
    """List letters: all that are not finished, or those that are chosen."""
    return asyncio.run(_ls(app, **selection))


@command.command("show")
@click.option("--app", required=True, envvar="HEADRACE_APP", help="module:attribute, a file, or the app's name.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.argument("id")
def show(app: str, id: str, as_json: bool) -> int:
    """Show one letter: its envelope, its attempts, its event."""
    return asyncio.run(_show(app, id, as_json))


@command.command("replay")
@_selection
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="At most so many a second.")
@click.option("--dry-run", is_flag=True, help="Only say what would be replayed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", default="", help="Why; kept in the letter's audit.")
def replay(app: str, **options: Any) -> int:
    """Bring letters back to their handlers, in their lanes."""
    return asyncio.run(_act(app, "replay", **options))


@command.command("drop")
@_selection
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="At most so many a second.")
@click.option("--dry-run", is_flag=True, help="Only say what would be dropped.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", default="", help="Why; kept in the letter's audit.")
def drop(app: str, **options: Any) -> int:
    """Give letters up: they stay on record as dropped."""
    return asyncio.run(_act(app, "drop", **options))


def _matches(stored: Any, ids: tuple[str, ...], where: Any, states: tuple[str, ...]) -> bool:
    letter = stored.letter
    if ids and not any(letter.id.startswith(id) for id in ids):
        return False
    if letter.state not in states:
        return False
    if where is None:
        return True
    event = letter.event
    return event is not None and where(event)


def _condition(where: str | None) -> Any:
    if where is None:
        return None
    from headrace.cloudevents import filters

    return filters.compile([{"sql": where}])


async def _select(
    letters: Any,
    ids: tuple[str, ...],
    handler: str | None,
    where: str | None,
    limit: int | None,
    states: tuple[str, ...],
) -> list[Any]:
    condition = _condition(where)
    chosen = []
    async for stored in letters.store.scan(letters.app, handler=handler):
        if _matches(stored, ids, condition, states):
            chosen.append(stored)
            if limit is not None and len(chosen) >= limit:
                break
    return chosen


def _row(letter: Any) -> dict[str, Any]:
    return {
        "id": letter.id,
        "handler": letter.handler,
        "state": letter.state,
        "type": letter.event_type,
        "event_id": letter.event_id,
        "attempts": letter.attempts,
        "replay": letter.replay,
        "last_seen": letter.last_seen,
        "reason": letter.reason,
    }


async def _ls(
    app: str,
    ids: tuple[str, ...],
    handler: str | None,
    where: str | None,
    state: str | None,
    limit: int | None,
    as_json: bool,
) -> int:
    from headrace.cli.letters import opened

    states = (state,) if state else ("dead", "replaying")
    async with opened(app) as letters:
        chosen = await _select(letters, ids, handler, where, limit, states)
    for stored in chosen:
        row = _row(stored.letter)
        if as_json:
            click.echo(json.dumps(row))
            continue
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["last_seen"]))
        click.echo(
            f"{row['id']}  {when}  {row['handler']:<16}  {row['state']:<9}  {row['attempts']:>3}  {row['type']:<20}  {row['reason'][:60]}"
        )
    if not chosen:
        click.echo("headrace: no dead letters match", err=True)
    return 0


async def _show(app: str, id: str, as_json: bool) -> int:
    import msgspec

    from headrace.cli.letters import opened

    async with opened(app) as letters:
        chosen = await _select(letters, (id,), None, None, 2, ("dead", "replaying", "replayed", "dropped"))
    if len(chosen) != 1:
        click.echo(
            f"headrace: {'no' if not chosen else 'more than one'} dead letter has an id that begins with {id}", err=True
        )
        return 3
    letter = chosen[0].letter
    envelope = msgspec.to_builtins(letter)
    if as_json:
        click.echo(json.dumps(envelope))
        return 0
    for name in ("id", "handler", "state", "reason", "exception", "attempts", "replay", "source", "origin", "key"):
        click.echo(f"{name:<10} {envelope.get(name, '')}")
    for error in letter.errors:
        click.echo(
            f"attempt    {time.strftime('%H:%M:%S', time.localtime(error.at))} {error.exception}: {error.message}"
        )
    event = letter.event
    if event is None:
        click.echo(f"bytes      {letter.body!r}")
    else:
        for name, value in event.attributes.items():
            click.echo(f"{name:<10} {value}")
        click.echo((event.raw or b"").decode("utf-8", "backslashreplace"))
    if letter.traceback:
        click.echo(letter.traceback)
    return 0


async def _act(
    app: str,
    action: str,
    *,
    ids: tuple[str, ...],
    handler: str | None,
    where: str | None,
    state: str | None,
    limit: int | None,
    as_json: bool,
    rate: float | None,
    dry_run: bool,
    yes: bool,
    reason: str,
) -> int:
    from headrace.cli.letters import opened
    from headrace.engine.replays import drop_letter, replay_letter

    async with opened(app) as letters:
        chosen = await _select(letters, ids, handler, where, limit, (state,) if state else ("dead", "replaying"))
        if not chosen:
            click.echo("headrace: no dead letters match", err=True)
            return 3
        if dry_run:
            for stored in chosen:
                click.echo(json.dumps(_row(stored.letter)) if as_json else f"would {action} {stored.letter.id}")
            return 0
        if not yes and not ids and sys.stdin.isatty():
            click.confirm(f"{action} {len(chosen)} dead letters?", abort=True, err=True)
        failed = 0
        begun = time.monotonic()
        with click.progressbar(chosen, label=action, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
            for number, stored in enumerate(bar):
                if rate is not None:
                    await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
                if action == "replay":
                    problem = await replay_letter(
                        letters.store, letters.broker, stored, by="headrace dlq", reason=reason
                    )
                else:
                    problem = await drop_letter(letters.store, stored, by="headrace dlq", reason=reason)
                if problem:
                    failed += 1
                    click.echo(f"headrace: {stored.letter.id}: {problem}", err=True)
                elif as_json:
                    click.echo(json.dumps({"id": stored.letter.id, "action": action}))
                else:
                    click.echo(f"{action} {stored.letter.id}")
    return 3 if failed else 0
