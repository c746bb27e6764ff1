"""One worker of ``headrace run``: signals, listeners, drain, exit code."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import uvloop

from headrace.app import App
from headrace.cli.loading import load
from headrace.cli.supervising import Place
from headrace.cli.watchdog import Watchdog
from headrace.compilation import Compiled
from headrace.control.server import Control
from headrace.errors import ConfigurationError, HeadraceError, RefusedError
from headrace.http.asgi import Routes
from headrace.http.server import Server, split_address
from headrace.observe.admin import Admin
from headrace.observe.logging import configure
from headrace.settings import Settings
from headrace.worker import Worker

__all__ = ["run_worker"]


def run_worker(target: str, overrides: Mapping[str, Any], *, place: Place, role: str | None = None) -> int:
    """Load the app and run it until a signal or the app itself ends it; the exit code.

    Args:
        target: module:attribute or a file. overrides: settings given on the command line.
        place: this worker's place under its supervisor.
        role: run only handlers of this role (``worker``, ``ingress``, ``watcher``), or all.
    """
    try:
        app = load(target)
        settings = app.settings(overrides=dict(overrides))
        configure(settings["log"])
        _refuse_shared_files(settings, place)
        # What is imported by now stays: the collector need not look at it for every generation.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(app, settings, place, role))
    except HeadraceError as error:
        click.echo(f"headrace: {error}", err=True)
        return error.exit_code


class _End:
    """Why and how the app ends. The second signal ends the drain too."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.code = 0
        self.signals = 0

    def stop(self, code: int) -> None:
        if not self.event.is_set():
            self.code = code
        self.event.set()

    def signalled(self, code: int) -> None:
        self.signals += 1
        self.stop(code)


def _refuse_shared_files(settings: Settings, place: Place) -> None:
    """A SQLite file has one worker at a time."""
    from headrace.stores.sqlite.ownership import holder_of

    for name in ("store", "dead_letters"):
        url = settings[name] or ""
        if place.of > 1 and url.startswith("sqlite:"):
            holder = holder_of(url.removeprefix("sqlite://")[1:])
            has = (
                f"the worker with pid {holder} owns it now"
                if holder
                else f"the one with pid {os.getpid()} would own it"
            )
            raise RefusedError(
                f"--workers {place.of}: {url} is a SQLite file, which one worker at a time may use, and {has}; "
                f"run one worker, or name a server: HEADRACE_{name.upper()}=postgresql://…"
            )


def _role(compiled: Compiled) -> str:
    """Which role runs a handler: what it is fed by."""
    if compiled.receives:
        return "ingress"
    return str(getattr(compiled.declaration, "role", "worker"))


async def _serve(app: App, settings: Settings, place: Place, role: str | None) -> int:
    end = _End()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, end.signalled, 0)
    loop.add_signal_handler(signal.SIGINT, end.signalled, 130)
    compiled = [one for one in app.compile(settings) if role is None or _role(one) == role]
    if not compiled:
        which = "no handlers" if role is None else f"no handlers of the role {role}"
        raise ConfigurationError(f"app {app.name!r} has {which}; declare one with @app.on(…)")
    worker = Worker(app.name, compiled, settings, fatal=end.stop)
    admin = Admin(app.name)
    async with contextlib.AsyncExitStack() as stack:
        address = split_address(settings["admin"], default_port=9464, what="admin")
        path = Path(place.socket(place.number)) if place.of > 1 else None
        listener = Server(admin, *address, what="admin", path=path)
        await listener.open()
        stack.push_async_callback(listener.close)
        stack.callback(admin.close)
        if path is None:
            _announce(place, listener, "admin")
        elif place.number == 0:
            place.report("listening", "admin", settings["admin"])
        longest = max(one.handler.timeout for one in compiled)
        stack.callback(Watchdog(longest, place.lifeline).stop)
        opening = asyncio.ensure_future(worker.open())
        stopping = asyncio.ensure_future(end.event.wait())
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            await worker.close()
            return end.code
        stopping.cancel()
        try:
            await opening
        except BaseException:
            await worker.close()
            raise
        assert worker.runtime is not None
        admin.attach(worker.runtime)
        if settings.values["store"].origin == "default" and settings["store"].startswith("memory:"):
            click.echo(
                "headrace: the ledger is in memory: after a crash, events that were handled and not yet acknowledged are "
                "handled again; set HEADRACE_STORE to make it durable",
                err=True,
            )
        await _run(app, worker, end, settings, place)
    if not worker.complete and end.code in (0, 130):
        click.echo("headrace: the drain timed out; what was not finished is handed back", err=True)
        return 70
    return end.code


def _announce(place: Place, listener: Server, what: str) -> None:
    click.echo(f"headrace: listening {listener}", err=True)
    place.report("listening", what, listener.authority)


async def _run(app: App, worker: Worker, end: _End, settings: Settings, place: Place) -> None:
    async with contextlib.AsyncExitStack() as stack:
        routes = Routes()
        if worker.receivers:
            # Closed last: answers that wait for the drain still go out.
            address = split_address(settings["http"], default_port=8080, what="http")
            server = Server(routes, *address, shared=place.of > 1)
            stack.push_async_callback(server.close)
            for source in worker.receivers:
                routes.add(source)
            await server.open()
        assert worker.runtime is not None
        await stack.enter_async_context(Control(worker.runtime))
        await stack.enter_async_context(app.at_work(worker))
        if worker.receivers:
            if place.number == 0:
                _announce(place, server, "http")
            stack.callback(server.stop)
            stack.callback(routes.drain)
        place.report("ready")
        await end.event.wait()
        if end.signals:
            _watch_second_signal(end, worker)


def _watch_second_signal(end: _End, worker: Worker) -> None:
    """A second signal cuts the drain short."""
    assert worker.runtime is not None
    if end.signals > 1:
        worker.runtime.hurry()
    elif not worker.runtime.closed:
        asyncio.get_running_loop().call_later(0.1, _watch_second_signal, end, worker)
