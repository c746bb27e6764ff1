"""``headrace trace ID``: what an app knows of an event."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import click

__all__ = ["command"]


@click.command("trace")
@click.option("--app", required=True, envvar="HEADRACE_APP", help="module:attribute, a file, or the app's name.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: a delivery or a dead letter.")
@click.argument("id")
def command(app: str, id: str, as_json: bool) -> int:
    """Follow the event ID: where running processes hold it, its attempts, its dead letters and their replays."""
    return asyncio.run(_trace(app, id, as_json))


async def _trace(app: str, id: str, as_json: bool) -> int:
    found = await _held(app, id)
    found += await _letters(app, id)
    for one in found:
        click.echo(json.dumps(one) if as_json else "\n".join(_in_words(one)))
    if not found:
        click.echo(
            f"headrace: nothing of {id} is under way and no dead letter has that event id: it is finished, or never came",
            err=True,
        )
    return 0 if found else 3


async def _held(app: str, id: str) -> list[dict[str, Any]]:
    from headrace.cli.loading import app_name
    from headrace.control.client import ask
    from headrace.errors import ConnectionFailed

    try:
        answers = await ask(app_name(app), {"do": "trace", "id": id})
    except ConnectionFailed as error:
        click.echo(f"headrace: only dead letters are looked at: {error}", err=True)
        return []
    return [{"pid": answer["pid"], **one} for answer in answers for one in answer.get("found", ())]


async def _letters(app: str, id: str) -> list[dict[str, Any]]:
    from headrace.cli.dlq.listing import row
    from headrace.cli.dlq.opening import opened

    found = []
    async with opened(app) as letters:
        async for stored in letters.store.scan(letters.app):
            letter = stored.letter
            if letter.event_id == id:
                errors = [{"at": e.at, "exception": e.exception, "message": e.message} for e in letter.errors]
                audit = [
                    {"at": one.at, "action": one.action, "by": one.by, "reason": one.reason} for one in letter.audit
                ]
                found.append({"what": "dead letter", **row(letter), "failed": errors, "audit": audit})
    return sorted(found, key=lambda one: one["replay"])


def _in_words(one: dict[str, Any]) -> list[str]:
    if one["what"] == "delivery":
        lane = "" if one["lane"] is None else f", lane {one['lane']!r}"
        lines = [
            f"process {one['pid']}, handler {one['handler']}: {one['state']}{lane}, attempt {one['attempt']}, "
            f"from {one['source']}"
        ]
        lines += [f"  outputs to {output['to']}, the first as {output['first_id']}" for output in one["outputs"]]
    else:
        lines = [
            f"dead letter {one['id']}, handler {one['handler']}: {one['state']}, {one['attempts']} attempts: {one['reason']}"
        ]
        if one["replay_of"]:
            lines.append(f"  of replay {one['replay']}, of letter {one['replay_of']}")
        lines += [
            f"  {act['action']} {_when(act['at'])} by {act['by']} {act['reason']}".rstrip() for act in one["audit"]
        ]
    lines += [f"  failed {_when(error['at'])} {error['exception']}: {error['message']}" for error in one["failed"]]
    return lines


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
