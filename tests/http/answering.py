"""A loop that fetches and settles, and clients that speak raw HTTP: what the HTTP tests stand on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from headrace.engine.broker import Binding
from headrace.engine.delivery import ACK, Delivery, Outcome
from headrace.engine.source import Credit
from headrace.http import Receiver
from headrace.http.asgi import Routes
from headrace.http.server import Guards, Server
from headrace.http.source import HttpSource

Handle = Callable[[Delivery], Outcome | None]

EVENT = {
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-source": "/shop",
    "ce-type": "order.created",
    "content-type": "application/json",
}


def binding(*, concurrency: int = 8, prefetch: int = 8, timeout: float = 30.0, **named: Any) -> Binding:
    return Binding(
        app="shop",
        handler="received",
        keyed=False,
        concurrency=concurrency,
        prefetch=Credit(prefetch, 64 * 1024 * 1024),
        parked=Credit(0, 0),
        timeout=timeout,
        **named,
    )


async def answer_all(source: HttpSource, handle: Handle, seen: list[Delivery]) -> None:
    """Fetch and settle until the source is drained; a delivery for which ``handle`` returns None stays open."""
    while deliveries := await source.fetch(Credit(100, 1 << 30)):
        for delivery in deliveries:
            seen.append(delivery)
            outcome = handle(delivery)
            if outcome is not None:
                source.settle(delivery, outcome)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = msgspec.json.decode(self.body)
        assert document["status"] == self.status
        return document


async def read_reply(reader: asyncio.StreamReader, method: str = "POST") -> Reply:
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0))) if method != "HEAD" else b""
    return Reply(int(status_line.split()[1]), headers, body)


def request(method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    named = {"host": "localhost", "content-length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class Served:
    """A receiver behind the real server, with its loop; ``seen`` are the deliveries that were fetched."""

    def __init__(self, source: HttpSource, server: Server, seen: list[Delivery]) -> None:
        self.source = source
        self.server = server
        self.seen = seen

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.server.address)

    async def call(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Reply:
        reader, writer = await self.connect()
        try:
            writer.write(request(method, path, headers or {}, body))
            return await read_reply(reader, method)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def post(self, body: bytes = b"{}", headers: dict[str, str] | None = None, **more: str) -> Reply:
        return await self.call("POST", "/events", {**(EVENT if headers is None else headers), **more}, body)


@contextlib.asynccontextmanager
async def serving(
    handle: Handle = lambda delivery: ACK,
    *,
    receiver: Receiver | None = None,
    bound: Binding | None = None,
    guards: Guards | None = None,
    fetch: bool = True,
) -> AsyncIterator[Served]:
    """A receiver at /events under the real server on a free port."""
    source = (receiver or Receiver("/events")).bind(bound or binding())
    assert isinstance(source, HttpSource)
    await source.open()
    routes = Routes()
    routes.add(source)
    server = Server(routes, "127.0.0.1", 0, guards=guards)
    await server.open()
    seen: list[Delivery] = []
    task = asyncio.create_task(answer_all(source, handle, seen)) if fetch else None
    try:
        yield Served(source, server, seen)
    finally:
        await source.close()
        if task is not None:
            await task
        await server.close(grace=1.0)


class Mounted:
    """A receiver under another ASGI server: requests as that server would hand them over."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def call(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        root_path: str = "",
        gone: asyncio.Event | None = None,
        parts: int = 1,
    ) -> Reply | None:
        sent: list[dict[str, Any]] = []
        step = max(1, -(-len(body) // parts))
        chunks = [body[at : at + step] for at in range(0, len(body), step)] or [b""]
        messages = [
            {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
            for index, chunk in enumerate(chunks)
        ]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await (gone or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {"type": "http", "method": method, "path": path, "root_path": root_path, "headers": pairs}
        scope |= {"query_string": b"", "http_version": "1.1"}
        await self.application(scope, receive, send)
        if not sent:
            return None
        decoded = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], decoded, b"".join(message.get("body", b"") for message in sent[1:]))
