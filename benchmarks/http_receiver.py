"""HTTP receiver: a binary-mode event POSTed to a trivial handler, beside FastAPI with the official SDK and bare ASGI.

Each server runs in a process of its own, one at a time, interleaved over the rounds; load comes from a second process of
keep-alive connections that each wait for their answer. What is compared is the CPU time that the server's process spends
on a request: requests a second on one whole core, which a busy neighbour changes far less than the wall clock. Every answer
is counted; an answer other than 2xx ends the run.

    python -m benchmarks.http_receiver [--seconds 3] [--rounds 5] [--connections 64]
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BODY = b'{"order":"o-000123","customer":"c-42","total":99.5,"currency":"EUR"}'
HEADERS = {
    "content-type": "application/json",
    "ce-specversion": "1.0",
    "ce-id": "{id}",
    "ce-source": "/shop/orders",
    "ce-type": "order.created",
    "ce-subject": "o-000123",
    "ce-time": "2026-01-05T10:00:00.123456Z",
}
SERVERS = {
    "headrace": "receiver, sync, trivial handler",
    "headrace-source": "the receiver alone: fetched and settled by a loop of ten lines",
    "asgi": "uvicorn, bare ASGI application that reads the body",
    "fastapi": "FastAPI with the official CloudEvents SDK",
}


# Servers


def listening(port: int) -> None:
    print(json.dumps({"port": port}), flush=True)


async def serve_headrace() -> None:
    """The whole of it: server, receiver, engine, in-memory ledger, a handler that does nothing."""
    from headrace import App, Event
    from headrace.http import Receiver
    from headrace.http.asgi import Routes
    from headrace.http.server import Server

    app = App("bench", store="memory://")

    @app.on(Receiver("/events"))
    async def received(event: Event) -> None:
        assert event.id

    async with app.running() as worker:
        routes = Routes()
        for source in worker.receivers:
            routes.add(source)
        server = Server(routes, "127.0.0.1", 0)
        await server.open()
        listening(server.address[1])
        await asyncio.Event().wait()


async def serve_source() -> None:
    """Server and receiver without the engine: what the transport itself costs."""
    from headrace.engine.broker import Binding
    from headrace.engine.delivery import ACK
    from headrace.engine.source import Credit
    from headrace.http import Receiver
    from headrace.http.asgi import Routes
    from headrace.http.server import Server

    credit = Credit(1024, 64 * 1024 * 1024)
    binding = Binding(
        app="bench", handler="received", keyed=False, concurrency=1024, prefetch=credit, parked=credit, timeout=30.0
    )
    source: Any = Receiver("/events").bind(binding)
    await source.open()
    routes = Routes()
    routes.add(source)
    server = Server(routes, "127.0.0.1", 0)
    await server.open()
    listening(server.address[1])
    while True:
        for delivery in await source.fetch(credit):
            source.settle(delivery, ACK)


async def serve_uvicorn(app: Any) -> None:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    listening(server.servers[0].sockets[0].getsockname()[1])
    await task


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """The least that an ASGI application can do with an event: read it, count it, answer."""
    if scope["type"] != "http":
        return
    message = await receive()
    assert not message["more_body"]
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def fastapi_app() -> Any:
    from cloudevents.v1.http import from_http  # its newer API takes some ten per cent longer
    from fastapi import FastAPI, Request, Response

    app = FastAPI()

    @app.post("/events")
    async def received(request: Request) -> Response:
        event = from_http(request.headers, await request.body())
        assert event["id"]
        return Response(status_code=204)

    return app


def serve(name: str) -> None:
    import uvloop

    if name == "headrace":
        uvloop.run(serve_headrace())
    elif name == "headrace-source":
        uvloop.run(serve_source())
    else:
        uvloop.run(serve_uvicorn(bare if name == "asgi" else fastapi_app()))


# Load


class Client(asyncio.Protocol):
    """One keep-alive connection: the next request leaves when the answer to the last one is whole. Every id is new."""

    numbers = itertools.count()

    def __init__(self, request: tuple[bytes, bytes], tally: dict[str, int], until: float) -> None:
        self.head, self.rest = request
        self.tally = tally
        self.until = until
        self.buffer = b""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.transport.write(b"%b%016d%b" % (self.head, next(self.numbers), self.rest))

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            self.buffer = buffer
            return
        head = buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(buffer) < end + 4 + length:
            self.buffer = buffer
            return
        self.buffer = b""
        status = head[9:12].decode()
        self.tally[status] = self.tally.get(status, 0) + 1
        if time.monotonic() < self.until:
            self.send()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


async def load(port: int, connections: int, seconds: float) -> dict[str, int]:
    fields = {"host": f"127.0.0.1:{port}", "content-length": str(len(BODY)), **HEADERS}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    # Ids go on where an earlier load of the same server ended.
    Client.numbers = itertools.count(time.monotonic_ns())
    first, rest = f"POST /events HTTP/1.1\r\n{head}\r\n".encode().split(HEADERS["ce-id"].encode())
    request = (first, rest + BODY)
    tally: dict[str, int] = {}
    loop = asyncio.get_running_loop()
    until = time.monotonic() + seconds
    clients = [
        (await loop.create_connection(lambda: Client(request, tally, until), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(client.closed for client in clients))
    return tally


# The run


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def python_for(name: str) -> str | None:
    """The interpreter that has what the row needs: the peers' environment, or this one."""
    if name.startswith("headrace"):
        return sys.executable
    for candidate in (ROOT / ".bench-venv/bin/python", Path(sys.executable)):
        module = "fastapi, cloudevents, uvloop" if name == "fastapi" else "uvicorn, httptools, uvloop"
        if (
            candidate.exists()
            and subprocess.run([candidate, "-c", f"import {module}"], capture_output=True).returncode == 0
        ):
            return str(candidate)
    return None


def measure(name: str, python: str, *, seconds: float, connections: int) -> dict[str, float]:
    """One round against a fresh server process."""
    # -P: a neighbour of this file must not be taken for the SDK.
    command = [python, "-P", str(Path(__file__)), "--serve", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = json.loads(server.stdout.readline())["port"]
            loader = [sys.executable, "-P", str(Path(__file__)), "--load", str(port), "--connections", str(connections)]
            subprocess.run([*loader, "--seconds", "0.5"], check=True, capture_output=True)
            before, begun = cpu_seconds(server.pid), time.monotonic()
            out = subprocess.run([*loader, "--seconds", str(seconds)], check=True, capture_output=True, text=True)
            wall, cpu = time.monotonic() - begun, cpu_seconds(server.pid) - before
        finally:
            server.kill()
    tally = json.loads(out.stdout)
    if any(not status.startswith("2") for status in tally):
        raise SystemExit(f"{name}: answers other than 2xx: {tally}")
    count = sum(tally.values())
    return {"requests": count, "per_core": count / cpu, "cpu_us": cpu / count * 1e6, "per_second": count / wall}


def run(*, seconds: float = 3.0, rounds: int = 5, connections: int = 64) -> dict[str, Any]:
    """All rows, interleaved; medians and the ratio to FastAPI with the SDK."""
    results: dict[str, list[dict[str, float]]] = {}
    pythons = {name: python_for(name) for name in SERVERS}
    for _ in range(rounds):
        for name in SERVERS:
            python = pythons[name]
            if python is None:
                continue
            results.setdefault(name, []).append(measure(name, python, seconds=seconds, connections=connections))
    rows = {
        name: {key: statistics.median(result[key] for result in measured) for key in measured[0]}
        for name, measured in results.items()
    }
    peer = rows.get("fastapi")
    ratios = {name: row["per_core"] / peer["per_core"] for name, row in rows.items()} if peer else {}
    return {
        "rows": rows,
        "ratio_to_fastapi": ratios,
        "missing": [name for name, python in pythons.items() if python is None],
        "raw": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve")
    parser.add_argument("--load", type=int)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    given = parser.parse_args()
    if given.serve:
        with contextlib.suppress(KeyboardInterrupt):
            serve(given.serve)
    elif given.load:
        import uvloop

        print(json.dumps(uvloop.run(load(given.load, given.connections, given.seconds))))
    else:
        results = run(seconds=given.seconds, rounds=given.rounds, connections=given.connections)
        for name, row in results["rows"].items():
            ratio = results["ratio_to_fastapi"].get(name)
            line = {"row": "HTTP receiver, binary, sync", "peer": name, "requests_per_core": round(row["per_core"])}
            line |= {"cpu_us": round(row["cpu_us"], 1), "requests_per_second": round(row["per_second"])}
            print(json.dumps({**line, "to_fastapi": ratio and round(ratio, 2)}), flush=True)
        for name in results["missing"]:
            print(f"{name:16s} not measured: nothing here has what it needs (make bench-venv)")


if __name__ == "__main__":
    main()
