"""Runs an app in the foreground of this process: signals, listeners, drain, exit code. Shared by ``run`` and ``dev``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal

import click
import uvloop

from headrace.app import App
from headrace.errors import ConfigurationError, HeadraceError
from headrace.http.asgi import Routes
from headrace.http.server import Server, split_address
from headrace.observe.admin import Admin
from headrace.observe.logging import configure
from headrace.settings import Settings
from headrace.worker import Worker

__all__ = ["run_app"]


def run_app(app: App, settings: Settings) -> int:
    """Run until a signal or the app itself ends it; the exit code."""
    configure(settings["log"])
    # What is imported by now stays: the collector need not look at it for every generation.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(app, settings))
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


async def _serve(app: App, settings: Settings) -> int:
    end = _End()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, end.signalled, 0)
    loop.add_signal_handler(signal.SIGINT, end.signalled, 130)
    worker = Worker(app.name, app.compile(settings), settings, fatal=end.stop)
    if not worker.compiled:
        raise ConfigurationError(f"app {app.name!r} has no handlers; declare one with @app.on(…)")
    admin = Admin(app.name)
    async with contextlib.AsyncExitStack() as stack:
        listener = Server(admin, *split_address(settings["admin"], default_port=9464, what="admin"), what="admin")
        await listener.open()
        stack.push_async_callback(listener.close)
        click.echo(f"headrace: listening {listener}", err=True)
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
        await _run(app, worker, end, settings)
    if not worker.complete and end.code in (0, 130):
        click.echo("headrace: the drain timed out; what was not finished is handed back", err=True)
        return 70
    return end.code


async def _run(app: App, worker: Worker, end: _End, settings: Settings) -> None:
    async with contextlib.AsyncExitStack() as stack:
        routes = Routes()
        if worker.receivers:
            # Closed last: answers that wait for the drain still go out.
            server = Server(routes, *split_address(settings["http"], default_port=8080, what="http"))
            stack.push_async_callback(server.close)
            for source in worker.receivers:
                routes.add(source)
            await server.open()
        await stack.enter_async_context(app.at_work(worker))
        if worker.receivers:
            click.echo(f"headrace: listening {server}", err=True)
            stack.callback(server.stop)
            stack.callback(routes.drain)
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
