"""``headrace send TYPE``: build an event, dated now, and send it; exit 0 only after it was confirmed."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

__all__ = ["command"]


@click.command("send")
@click.argument("type")
@click.option("-d", "--data", default=None, help="Data: text, @FILE, or - for stdin. JSON where it parses.")
@click.option(
    "--ext", multiple=True, help="An attribute as name=value; may be repeated. Without time=, the event is dated now."
)
@click.option("--subject", help="The event's subject.")
@click.option("--source", default="/headrace/send", show_default=True, help="The event's source.")
@click.option("--id", "id", help="The event's id (a random one); with --count a number is appended.")
@click.option("--key", help="The ordering key, also written as partitionkey.")
@click.option("--to", help="A channel, or an http(s) URL (the channel named TYPE).")
@click.option("--broker", help="URL of the broker (HEADRACE_BROKER).")
@click.option("--count", type=click.IntRange(min=1), default=1, help="How many.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="At most so many a second.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object an event.")
def command(type: str, **options: Any) -> int:
    """Send an event of TYPE."""
    return asyncio.run(_send(type, **options))


def _data(given: str | None) -> tuple[Any, str | None]:
    """The data and its content type."""
    if given is None:
        return None, None
    if given == "-":
        raw = sys.stdin.buffer.read()
    elif given.startswith("@"):
        raw = Path(given[1:]).read_bytes()
    else:
        raw = given.encode()
    try:
        json.loads(raw)
    except ValueError:
        return raw, "text/plain" if _is_text(raw) else "application/octet-stream"
    return raw, "application/json"


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


async def _send(
    type: str,
    *,
    data: str | None,
    ext: tuple[str, ...],
    subject: str | None,
    source: str,
    id: str | None,
    key: str | None,
    to: str | None,
    broker: str | None,
    count: int,
    rate: float | None,
    as_json: bool,
) -> int:
    from headrace.app import App
    from headrace.errors import ConfigurationError, InvalidEvent
    from headrace.event import Event

    attributes: dict[str, Any] = {}
    for pair in ext:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is not name=value", param_hint="--ext")
        attributes[name] = value
    try:
        raw, content_type = _data(data)
    except OSError as error:
        raise click.BadParameter(f"{data}: {error.strerror}", param_hint="--data") from None
    destination: Any = to or type
    if destination.startswith(("http://", "https://")):
        from headrace.http import Endpoint

        destination = Endpoint(destination, allow_private=True)
    app = App("headrace-send", broker=broker, store="memory://")
    if isinstance(destination, str) and not app.settings()["broker"]:
        raise ConfigurationError("send needs a broker: set HEADRACE_BROKER, give --broker, or --to an http(s) URL")
    if isinstance(destination, str) and app.settings()["broker"].startswith("memory:"):
        raise ConfigurationError("memory:// lives in one process, and nobody hears what another one sends there")
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def one(number: int) -> None:
        identifier = {} if id is None else {"id": id if count == 1 else f"{id}-{number}"}
        stamped = {"time": datetime.now(UTC), **identifier, **attributes}
        try:
            event = Event(type, source, raw, subject=subject, datacontenttype=content_type, **stamped)
        except InvalidEvent as error:
            raise click.UsageError(f"no such event can be: {error}") from None
        published = await app.publish(destination, event, key=key)
        if as_json:
            click.echo(
                json.dumps(
                    {"id": event.id, "type": type, "duplicate": published.duplicate, "position": published.position}
                )
            )
        elif count == 1:
            click.echo(f"sent {event.id}" + (" (a duplicate)" if published.duplicate else ""))

    try:
        if rate is not None or count < 100:
            for number in range(count):
                if rate is not None:
                    await asyncio.sleep(max(0.0, begun + number / rate - loop.time()))
                await one(number)
        else:
            for start in range(0, count, 500):
                await asyncio.gather(*(one(number) for number in range(start, min(count, start + 500))))
    finally:
        await app.close()
    if count > 1:
        click.echo(f"headrace: {count} events sent and confirmed", err=True)
    return 0
