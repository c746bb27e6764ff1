"""``headrace tail``: new events of channels, as they come."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

__all__ = ["command"]


@click.command("tail")
@click.argument("channels", nargs=-1)
@click.option("--broker", help="URL of the broker (HEADRACE_BROKER).")
@click.option("--where", help="Only events that this CESQL expression holds for.")
@click.option("-n", "--number", type=click.IntRange(min=1), help="End after so many.")
@click.option("--json", "as_json", is_flag=True, help="One event a line in the JSON format.")
def command(channels: tuple[str, ...], broker: str | None, where: str | None, number: int | None, as_json: bool) -> int:
    """Show new events of CHANNELS, of all without one."""
    return asyncio.run(_tail(channels, broker, where, number, as_json))


async def _tail(
    channels: tuple[str, ...], url: str | None, where: str | None, number: int | None, as_json: bool
) -> int:
    from headrace.cloudevents import filters
    from headrace.errors import ConfigurationError
    from headrace.settings import Settings
    from headrace.worker import create_broker

    condition = filters.compile([{"sql": where}]) if where is not None else None
    settings = Settings.resolve({"broker": url} if url else {})
    if not settings["broker"]:
        raise ConfigurationError("tail needs a broker: set HEADRACE_BROKER or give --broker")
    broker: Any = create_broker(settings["broker"], app="headrace-tail", settings=settings)
    if not hasattr(broker, "tail"):
        raise ConfigurationError(f"tail does not know brokers of the kind {broker.name!r}")
    await broker.open()
    what = ", ".join(channels) if channels else "every channel"
    click.echo(f"headrace: new events of {what}, until interrupted", err=True)
    try:
        async for channel, event in broker.tail(channels):
            if condition is not None and not condition(event):
                continue
            click.echo(event.to_json().decode() if as_json else _line(channel, event))
            if number is not None:
                number -= 1
                if number == 0:
                    return 0
    finally:
        await broker.close()
    return 0


def _line(channel: str, event: Any) -> str:
    data = event.raw or b""
    shown = data[:120].decode("utf-8", "backslashreplace")
    extensions = {
        name: value
        for name, value in event.attributes.items()
        if name not in ("specversion", "id", "source", "type", "time", "datacontenttype")
    }
    shown_extensions = json.dumps(extensions) if extensions else ""
    when = event.attributes.get("time", "")
    return f"{when:<20} {channel:<20} {event.type} {event.id} {shown_extensions} {shown}"
