"""``headrace dev APP``: an embedded NATS server, and the app restarted when its files change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

__all__ = ["command"]

#: Seconds between looks at the files.
WATCH_EVERY = 1.0


@click.command("dev")
@click.argument("app")
@click.option("--persist", type=click.Path(file_okay=False), help="Keep NATS, ledger and dead letters in this folder.")
@click.option("--admin", default="127.0.0.1:9464", show_default=True, help="host:port of probes and metrics.")
@click.option("--http", default="127.0.0.1:8080", show_default=True, help="host:port of the HTTP receivers.")
@click.option("--reload/--no-reload", default=True, show_default=True, help="Restart when a file changes.")
def command(app: str, persist: str | None, admin: str, http: str, reload: bool) -> int:
    """Run APP with an embedded NATS server on free ports; ephemeral unless --persist."""
    from headrace.cli.loading import load

    load(app)
    with tempfile.TemporaryDirectory(prefix="headrace-dev-") as temporary:
        folder = Path(persist or temporary)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.BadParameter(f"{folder}: {error.strerror}", param_hint="--persist") from None
        environment = dict(os.environ)
        environment.setdefault("HEADRACE_STORE", f"sqlite:///{(folder / 'ledger.db').resolve()}")
        environment["HEADRACE_ADMIN"] = environment.get("HEADRACE_ADMIN", admin)
        environment["HEADRACE_HTTP"] = environment.get("HEADRACE_HTTP", http)
        if environment.get("HEADRACE_BROKER"):
            return _watch(app, environment, reload)
        from headrace.nats.embedded import Embedded

        with Embedded(folder / "nats") as server:
            environment["HEADRACE_BROKER"] = server.url
            click.echo(f"headrace: nats-server at {server.url}, data in {folder}", err=True)
            return _watch(app, environment, reload)


def _watch(app: str, environment: dict[str, str], reload: bool) -> int:
    """Run the worker as a child; restart it when a file of the current folder changed."""
    ended: list[int] = []

    def end(number: int, frame: object) -> None:
        ended.append(130 if number == signal.SIGINT else 0)
        child.send_signal(signal.SIGTERM)

    child = _start(app, environment)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    stamp = _stamp()
    while True:
        try:
            code = child.wait(WATCH_EVERY if reload else None)
        except subprocess.TimeoutExpired:
            latest = _stamp()
            if latest != stamp and not ended:
                stamp = latest
                click.echo("headrace: a file changed, restarting", err=True)
                child.send_signal(signal.SIGTERM)
                child.wait()
                child = _start(app, environment)
            continue
        if ended:
            return ended[0] if code == 0 else code
        if not reload or code == 0:
            return code
        click.echo(f"headrace: the app ended with {code}; waiting for a change", err=True)
        while not ended and _stamp() == stamp:
            time.sleep(WATCH_EVERY)
        if ended:
            return ended[0]
        stamp = _stamp()
        child = _start(app, environment)


def _start(app: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    # A process group of its own: Ctrl-C reaches the child once, as SIGTERM from here.
    return subprocess.Popen([sys.executable, "-m", "headrace", "run", app], env=environment, start_new_session=True)


def _stamp() -> tuple[tuple[str, int], ...]:
    """Name and time of every Python file below the current folder, hidden folders left out."""
    found = []
    for root, folders, files in os.walk("."):
        folders[:] = [name for name in folders if not name.startswith((".", "__")) and name != "node_modules"]
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(root, name)
                try:
                    found.append((path, os.stat(path).st_mtime_ns))
                except FileNotFoundError:
                    continue
    return tuple(sorted(found))
