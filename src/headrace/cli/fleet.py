"""One admin port for several workers: a process that asks each of them on its socket and answers for all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import click
import uvloop

from headrace.cli.supervising import Place
from headrace.cli.watchdog import Watchdog
from headrace.errors import HeadraceError
from headrace.http.server import Server, split_address
from headrace.observe.admin import PATHS
from headrace.observe.merging import merged_exposition, merged_readiness

__all__ = ["serve_fleet"]

#: Seconds that a worker has for its answer.
WITHIN = 5.0


def serve_fleet(place: Place) -> int:
    """Serve the admin port of ``place.addresses`` until SIGTERM; the exit code."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(place))
    except HeadraceError as error:
        click.echo(f"headrace: {error}", err=True)
        return error.exit_code


async def _serve(place: Place) -> int:
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    address = split_address(place.addresses["admin"], default_port=9464, what="admin")
    server = Server(_Fleet(place), *address, what="admin")
    await server.open()
    watchdog = Watchdog(WITHIN, place.lifeline)
    click.echo(f"headrace: listening {server}", err=True)
    place.report("listening", "admin", server.authority)
    await end.wait()
    watchdog.stop()
    await server.close()
    return 0


class _Fleet:
    """The ASGI application."""

    def __init__(self, place: Place) -> None:
        self._sockets = [place.socket(number) for number in range(place.of)]

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
        status, content_type, body = await self._answer(scope["method"], scope["path"], accept)
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, method: str, path: str, accept: str) -> tuple[int, str, bytes]:
        if path not in PATHS:
            return 404, "application/json", _json({"error": f"the admin port serves {', '.join(PATHS)}"})
        if method not in ("GET", "HEAD"):
            return 405, "application/json", _json({"error": "use GET"})
        asked = await asyncio.gather(*(_ask(socket, path) for socket in self._sockets))
        answers = [answer for answer in asked if answer is not None]
        if path == "/metrics":
            content_type, body = merged_exposition([text.decode() for _, text in answers], accept)
            return 200, content_type, body
        bodies = [(status, json.loads(text)) for status, text in answers]
        if path == "/livez":
            # A worker that does not live is started again by the supervisor, not by whoever asks here.
            return 200, "application/json", _json({"status": "alive", "workers": [body for _, body in bodies]})
        good, merged = merged_readiness(bodies, len(self._sockets))
        return 200 if good else 503, "application/json", _json(merged)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


async def _ask(socket: str, path: str) -> tuple[int, bytes] | None:
    """One worker's answer: status and body; ``None`` where it is not there."""
    with contextlib.suppress(OSError, TimeoutError, ValueError, IndexError):
        async with asyncio.timeout(WITHIN):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                return int(head.split(b" ", 2)[1]), body
            finally:
                writer.close()
    return None
