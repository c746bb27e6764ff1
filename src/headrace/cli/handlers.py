"""``headrace handlers``: look at the handlers of a running app, pause and resume them, in all of its processes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

__all__ = ["command"]

_app = click.option("--app", required=True, envvar="HEADRACE_APP", help="module:attribute, a file, or the app's name.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line: a handler in a process.")
_reason = click.option("--reason", default="", help="Why; it goes into the app's log and is shown.")


@click.group("handlers")
def command() -> None:
    """Look at and control the handlers of a running app: in every process that was started in this folder."""


@command.command("ls")
@_app
@_json
def ls(app: str, as_json: bool) -> int:
    """List the handlers of each process."""
    return _ask(app, {"do": "handlers"}, as_json)


@command.command("show")
@_app
@_json
@click.argument("handlers", nargs=-1)
def show(app: str, as_json: bool, handlers: tuple[str, ...]) -> int:
    """Show HANDLERS (all): policy, owner, lag, times, errors, parked lanes."""
    return _ask(app, {"do": "show", "handlers": handlers}, as_json)


@command.command("pause")
@_app
@_json
@_reason
@click.argument("handlers", nargs=-1, required=True)
def pause(app: str, as_json: bool, reason: str, handlers: tuple[str, ...]) -> int:
    """Pause HANDLERS: what runs goes on, nothing more is fetched or begun, until resume or a restart."""
    return _control(app, "pause", handlers, reason, as_json)


@command.command("resume")
@_app
@_json
@_reason
@click.argument("handlers", nargs=-1, required=True)
def resume(app: str, as_json: bool, reason: str, handlers: tuple[str, ...]) -> int:
    """Resume HANDLERS."""
    return _control(app, "resume", handlers, reason, as_json)


def _control(app: str, what: str, handlers: tuple[str, ...], reason: str, as_json: bool) -> int:
    from headrace.cli.operator import operator

    return _ask(app, {"do": what, "handlers": handlers, "by": operator(), "reason": reason}, as_json)


def _ask(app: str, request: dict[str, Any], as_json: bool) -> int:
    from headrace.cli.loading import app_name
    from headrace.control.client import ask

    failed = False
    for answer in asyncio.run(ask(app_name(app), request)):
        if "error" in answer:
            failed = True
            click.echo(f"headrace: process {answer['pid']}: {answer['error']}", err=True)
            continue
        for found in answer["found"]:
            if as_json:
                about = {name: answer[name] for name in ("app", "pid", "host", "draining")}
                click.echo(json.dumps({**about, **found}))
            else:
                click.echo("\n".join(_in_words(answer, found, full=request["do"] == "show")))
    return 3 if failed else 0


def _in_words(answer: dict[str, Any], found: dict[str, Any], *, full: bool) -> list[str]:
    state = "draining" if answer["draining"] else "running"
    if found["paused"]:
        pause = found.get("pause", {})
        words = [
            "paused",
            f"by {pause['by']}" if pause.get("by") else "",
            f"({pause['reason']})" if pause.get("reason") else "",
        ]
        state = " ".join(word for word in words if word)
        if found["breaker_open"]:
            state = "paused by its circuit breaker"
    outcomes = " ".join(f"{name}={count}" for name, count in found["outcomes"].items() if count)
    lines = [
        f"{answer['pid']:>7}  {found['handler']:<20}  {state:<10}  {found['inflight']} of {found['limit']} running, "
        f"{found['waiting']} waiting, {found['parked']} parked  {outcomes}".rstrip()
    ]
    for source in found["sources"]:
        lag = "" if source["lag_events"] is None else f", lag {source['lag_events']}"
        connected = "connected" if source["connected"] else "NOT connected"
        lines.append(f"         {source['name']}: {connected}, {source['ownership']}{lag}")
        if source["detail"]:
            lines.append(f"         {source['detail']}")
    if found["detail"]:
        lines.append(f"         {found['detail']}")
    if full:
        lines.append(f"         {found['policy']}")
        times = ", ".join(f"{name} ≤ {value:g} s" for name, value in found["seconds"].items() if value is not None)
        if times:
            lines.append(f"         attempts take {times}")
        if found["exceptions"]:
            failed = ", ".join(f"{name} {count}" for name, count in found["exceptions"].items())
            lines.append(f"         failed with {failed}")
        lines += [
            f"         parked: key {lane['key']!r}, {lane['events']} events, next attempt in {lane['due_in']:g} s"
            for lane in found["parked_lanes"]
        ]
    return lines
