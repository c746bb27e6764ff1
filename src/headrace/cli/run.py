"""``headrace run APP``: production, in the foreground."""

from __future__ import annotations

import click

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
def command(app: str, workers: int, role: str | None, **flags: str | None) -> int:
    """Run APP until SIGTERM or SIGINT, then drain. A worker that crashes is started again."""
    from headrace.cli.supervising import Place, supervise

    given = {name: value for name, value in flags.items() if value is not None}

    def work(place: Place) -> int:
        from headrace.cli.serving import run_worker

        return run_worker(app, {**given, **place.addresses}, place=place, role=role)

    def admin(place: Place) -> int:
        from headrace.cli.fleet import serve_fleet

        return serve_fleet(place)

    return supervise(work, workers=workers, admin=admin)
