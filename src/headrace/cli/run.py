"""``headrace run APP``: production, in the foreground."""

from __future__ import annotations

from functools import partial

import click

from headrace.cli.supervising import Place

__all__ = ["command"]


@click.command("run")
@click.argument("app")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes under one supervisor."
)
@click.option(
    "--role",
    type=click.Choice(["worker", "ingress", "watcher"]),
    help="Run only the handlers fed by brokers and timers, by HTTP, or by Kubernetes watches; default: all.",
)
@click.option("--broker", help="URL of the broker (HEADRACE_BROKER).")
@click.option("--store", help="URL of the store (HEADRACE_STORE).")
@click.option("--admin", help="host:port of probes and metrics (HEADRACE_ADMIN).")
@click.option("--http", help="host:port of the HTTP receivers (HEADRACE_HTTP).")
@click.option("--log", help="Log level (HEADRACE_LOG).")
@click.pass_obj
def command(place: Place | None, /, app: str, workers: int, role: str | None, **flags: str | None) -> None:
    """Run APP until SIGTERM or SIGINT, then drain. A worker that crashes is started again."""
    if place is None:
        raise click.UsageError("run works under its supervisor only: start it as the headrace command")
    given = {name: value for name, value in flags.items() if value is not None}
    if place.number == 0:
        place.of = workers
        if workers > 1 and not place.folder:
            import tempfile

            place.folder = tempfile.mkdtemp(prefix="headrace-run-")
            place.report("workers", str(workers), place.folder)
    if place.admin:
        from headrace.cli.fleet import serve_fleet

        place.task = partial(serve_fleet, place)
    else:
        from headrace.cli.serving import run_worker

        place.task = partial(run_worker, app, {**given, **place.addresses}, place=place, role=role)
