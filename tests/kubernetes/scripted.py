"""A scripted API server: faults of the wire that a real one does not commit on demand. It has no semantics of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

Query = dict[str, str]
Act = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request of a watch or list, and the means to answer it badly."""

    def __init__(self, query: Query, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        self.query = query
        self.headers = headers
        self._writer = writer

    async def answer(self, status: int, body: Any, **headers: str) -> None:
        """A whole answer."""
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(encoded)}", "Content-Type: application/json"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + encoded)
        await self._writer.drain()

    async def status(self, code: int, reason: str, message: str = "", **headers: str) -> None:
        await self.answer(code, {"kind": "Status", "code": code, "reason": reason, "message": message}, **headers)

    async def begin(self) -> None:
        """Accept a watch."""
        self._writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        await self._writer.drain()

    async def send(self, data: bytes) -> None:
        """Some bytes of a watch."""
        self._writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self._writer.drain()

    async def event(self, kind: str, name: str, version: int, uid: str = "u1", **fields: Any) -> None:
        metadata = {"name": name, "namespace": "n", "uid": uid, "resourceVersion": str(version), **fields}
        body = {"type": kind, "object": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}}
        await self.send(json.dumps(body).encode() + b"\n")

    async def bookmark(self, version: int, *, end: bool = False) -> None:
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        await self.send(json.dumps({"type": "BOOKMARK", "object": {"metadata": metadata}}).encode() + b"\n")

    async def error(self, code: int, reason: str) -> None:
        status = {"kind": "Status", "code": code, "reason": reason, "message": "scripted"}
        await self.send(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")

    async def end(self) -> None:
        """End a watch properly."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def reset(self) -> None:
        """Break off."""
        self._writer.transport.abort()

    async def page(self, version: int, *names: str, token: str = "") -> None:
        items = [
            {"metadata": {"name": name, "namespace": "n", "uid": f"u-{name}", "resourceVersion": str(version)}}
            for name in names
        ]
        await self.answer(200, {"metadata": {"resourceVersion": str(version), "continue": token}, "items": items})


class Scripted:
    """Answers the requests for ConfigMaps with one act after the other, and the last one for ever. ``asked``: their queries."""

    def __init__(self, *acts: Act) -> None:
        self._acts = list(acts)
        self.asked: list[Query] = []
        self.tokens: list[str] = []
        self.valid: set[str] | None = None

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def kubeconfig(self, folder: Path, **user: Any) -> str:
        """A kubeconfig for it; ``user`` is the user's entry."""
        path = folder / "kubeconfig"
        document = {
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        path.write_text(json.dumps(document))
        return str(path)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while head := await _head(reader):
                await self._serve(head, writer)
        except (ConnectionError, asyncio.CancelledError):
            return  # the client went away, which is its right, or the test ended
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, head: str, writer: asyncio.StreamWriter) -> None:
        request, *lines = head.split("\r\n")
        parts = urlsplit(request.split(" ")[1])
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        exchange = Exchange(dict(parse_qsl(parts.query)), headers, writer)
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if self.valid is not None and token not in self.valid:
            self.tokens.append(token)
            await exchange.status(401, "Unauthorized")
        elif parts.path == "/api/v1":
            resource = {"name": "configmaps", "kind": "ConfigMap", "namespaced": True}
            await exchange.answer(200, {"resources": [resource]})
        elif parts.path.endswith("/configmaps"):
            self.tokens.append(token)
            self.asked.append(exchange.query)
            act = self._acts.pop(0) if len(self._acts) > 1 else self._acts[0]
            await act(exchange)
        else:
            await exchange.status(403, "Forbidden")


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return ""
    return head.decode().rstrip()


async def hang(exchange: Exchange) -> None:
    """Accept and say nothing."""
    await exchange.begin()
    await asyncio.Event().wait()


def synced(version: int, *names: str, then: Act | None = None) -> Act:
    """A complete streaming list, then ``then`` on the same stream, or silence."""

    async def act(exchange: Exchange) -> None:
        await exchange.begin()
        for name in names:
            await exchange.event("ADDED", name, version, uid=f"u-{name}")
        await exchange.bookmark(version, end=True)
        if then is None:
            await asyncio.Event().wait()
        else:
            await then(exchange)

    return act
