"""``headrace run APP``: production, in the foreground."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command("run")
@click.argument("app")
@click.option("--broker", help="URL of the broker (HEADRACE_BROKER).")
@click.option("--store", help="URL of the store (HEADRACE_STORE).")
@click.option("--admin", help="host:port of probes and metrics (HEADRACE_ADMIN).")
@click.option("--http", help="host:port of the HTTP receivers (HEADRACE_HTTP).")
@click.option("--log", help="Log level (HEADRACE_LOG).")
def command(app: str, **flags: str | None) -> int:
    """Run APP until SIGTERM or SIGINT, then drain."""
    from headrace.cli.loading import load
    from headrace.cli.serving import run_app

    loaded = load(app)
    given = {name: value for name, value in flags.items() if value is not None}
    return run_app(loaded, loaded.settings(overrides=given))
