"""``headrace dlq replay`` and ``drop``: one letter or a hundred thousand, at a rate, with progress, to be cancelled."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.dlq.listing import row
from headrace.cli.dlq.selection import Selection, json_option, reason_option, selecting

if TYPE_CHECKING:
    from headrace.cli.dlq.opening import Letters
    from headrace.engine.dead_letters import Stored
    from headrace.engine.replays import Chosen

__all__ = ["drop", "replay"]

_DONE = {"replay": "replayed", "drop": "dropped"}
#: On a terminal a summary says more than so many lines.
LINES = 20


def _acting(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        reason_option,
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Only say which letters it would be."),
        click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="At most so many a second."),
        json_option,
        selecting,
    ):
        function = option(function)
    return function


@click.command("replay")
@_acting
def replay(app: str, **options: Any) -> int:
    """Bring letters back to their handlers, in their lanes.

    Cancelled (SIGINT) it finishes what was begun and ends with 130; run again it takes up what is left.
    """
    return asyncio.run(_act(app, "replay", **options))


@click.command("drop")
@_acting
def drop(app: str, **options: Any) -> int:
    """Give letters up: they stay on record as dropped."""
    return asyncio.run(_act(app, "drop", **options))


async def _act(
    app: str,
    action: str,
    *,
    selection: Selection,
    as_json: bool,
    rate: float | None,
    dry_run: bool,
    yes: bool,
    reason: str,
) -> int:
    from headrace.cli.dlq.opening import opened
    from headrace.engine.replays import UNFINISHED, Chosen

    async with opened(app) as letters:
        chosen: list[Chosen] = []
        rows: dict[str, dict[str, Any]] = {}
        async for stored in selection.matching(letters.store, letters.app, states=UNFINISHED):
            letter = stored.letter
            chosen.append(Chosen(letter.last_seen, letter.id, letter.handler, letter.key))
            if dry_run:
                rows[letter.id] = row(letter)
        chosen.sort()
        del chosen[selection.limit or len(chosen) :]
        if not chosen:
            click.echo("headrace: no dead letters match", err=True)
            return 3
        if dry_run:
            for one in chosen:
                click.echo(_would(action, rows[one.id], as_json))
            click.echo(f"headrace: {len(chosen)} dead letters would be {_DONE[action]}", err=True)
            return 0
        if not yes and not selection.ids and sys.stdin.isatty():
            click.confirm(f"{action} {len(chosen)} dead letters?", abort=True, err=True)
        return await _Run(letters, action, chosen, as_json=as_json, reason=reason).go(rate)


def _would(action: str, shown: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return json.dumps({**shown, "action": action, "dry_run": True})
    return f"would {action} {shown['id']}  {shown['handler']}  {shown['type']}  {shown['event_id']}"


class _Run:
    """One action over many letters, and what is said of it."""

    def __init__(self, letters: Letters, action: str, chosen: list[Chosen], *, as_json: bool, reason: str) -> None:
        self.letters = letters
        self.action = action
        self.chosen = chosen
        self.as_json = as_json
        self.reason = reason
        self.done = 0
        self.failed = 0
        self.quiet = not as_json and len(chosen) > LINES and sys.stdout.isatty()
        self._bar: Any = None

    async def go(self, rate: float | None) -> int:
        """Act on all; the exit code."""
        from headrace.engine.replays import act_on_all

        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._cancel, stop)
        begun = time.monotonic()
        hidden = not sys.stderr.isatty()
        with click.progressbar(length=len(self.chosen), label=self.action, file=sys.stderr, hidden=hidden) as bar:
            self._bar = bar
            try:
                await act_on_all(self.letters.store, self.chosen, self._one, report=self._report, stop=stop, rate=rate)
                cancelled = stop.is_set()
            finally:
                self._say(time.monotonic() - begun)
        if cancelled:
            return 130
        return 3 if self.failed else 0

    def _cancel(self, stop: asyncio.Event) -> None:
        """The first signal ends the run after what was begun; a second one ends the process."""
        stop.set()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    async def _one(self, stored: Stored) -> str:
        from headrace.cli.operator import operator
        from headrace.engine.replays import drop_letter, replay_letter

        store = self.letters.store
        if self.action == "drop":
            return await drop_letter(store, stored, by=operator(), reason=self.reason)
        return await replay_letter(store, self.letters.broker, stored, by=operator(), reason=self.reason)

    def _report(self, letter: Chosen, problem: str) -> None:
        self._bar.update(1)
        if problem:
            self.failed += 1
            click.echo(f"headrace: {letter.id}: {problem}", err=True)
        else:
            self.done += 1
        if self.as_json:
            state = {} if problem else {"state": _DONE[self.action]}
            click.echo(
                json.dumps(
                    {"id": letter.id, "handler": letter.handler, "action": self.action, **state, "problem": problem}
                )
            )
        elif not problem and not self.quiet:
            click.echo(f"{_DONE[self.action]} {letter.id}")

    def _say(self, seconds: float) -> None:
        left = len(self.chosen) - self.done - self.failed
        words = [f"{self.done} of {len(self.chosen)} dead letters {_DONE[self.action]} in {seconds:.1f} s"]
        if self.failed:
            words.append(f"{self.failed} could not be")
        if left:
            words.append(f"{left} were not begun: run it again to go on")
        click.echo(f"headrace: {'; '.join(words)}", err=True)
