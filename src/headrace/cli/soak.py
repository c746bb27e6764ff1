"""``headrace soak``: a real app under load while everything around it fails, and a verdict over all that happened."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from headrace.testing.soak import Report, Soak

__all__ = ["command"]

#: Seconds between lines about the progress, where no terminal shows a live one.
SAY_EVERY = 30.0


@click.command("soak")
@click.option(
    "--minutes", type=click.FloatRange(min=0.1), default=30.0, show_default=True, help="How long the load is."
)
@click.option("--seed", type=click.IntRange(min=0), help="Draws faults and events; a random one is printed.")
@click.option("--broker", help="URL of a broker, which is left alone; the embedded NATS is killed and stopped too.")
@click.option(
    "--store", help="URL of the store; default: a SQLite file a replica. A SQLite file that is named has one replica."
)
@click.option(
    "--rate",
    type=click.FloatRange(min=40, max=5000),
    default=300.0,
    show_default=True,
    help="Events published a second.",
)
@click.option("--keep", type=click.Path(file_okay=False), help="Keep the history and the logs in this folder.")
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
def command(
    minutes: float,
    seed: int | None,
    broker: str | None,
    store: str | None,
    rate: float,
    keep: str | None,
    as_json: bool,
) -> int:
    """Run replicas of a real app under load: they are killed, stopped and drained, the broker dies, a dependency fails,
    poison comes. Exit code 0 only where nothing was lost, no key skipped, and no sound event was dead-lettered."""
    import secrets

    import uvloop

    from headrace.testing.soak import Soak

    seed = secrets.randbelow(1_000_000) if seed is None else seed
    click.echo(
        f"headrace: soak of {minutes:g} min, seed {seed}: headrace soak --seed {seed} --minutes {minutes:g}", err=True
    )
    with contextlib.ExitStack() as stack:
        folder = Path(keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-soak-"))).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "history").exists():
            raise click.BadParameter(f"{folder} holds the history of an earlier soak", param_hint="--keep")
        soak = Soak(folder, seed=seed, seconds=minutes * 60, broker=broker, store=store, rate=rate, say=_say)
        stack.callback(soak.close)
        if broker is not None:
            _say(f"at the broker it uses what is named {soak.name}, and leaves it there")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(_run(soak))
    click.echo(json.dumps(report.as_json()) if as_json else "\n".join(report.in_words()))
    if report.cut_short:
        return 130
    return 0 if report.clean else 1


def _say(sentence: str) -> None:
    live = "\r\x1b[K" if sys.stderr.isatty() else ""
    click.echo(f"{live}headrace: {time.strftime('%H:%M:%S')} {sentence}", err=True)


async def _run(soak: Soak) -> Report:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    progress = asyncio.create_task(_progress(soak))
    try:
        return await soak.run(stop)
    finally:
        progress.cancel()


async def _progress(soak: Soak) -> None:
    """A live line on a terminal, a plain one now and then elsewhere."""
    live = sys.stderr.isatty()
    while True:
        await asyncio.sleep(0.5 if live else SAY_EVERY)
        if live:
            done = min(30, int(30 * soak.elapsed / soak.seconds))
            click.echo(f"\r\x1b[K[{'#' * done}{'.' * (30 - done)}] {soak.line}", err=True, nl=False)
        else:
            _say(soak.line)
