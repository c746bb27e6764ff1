"""uvicorn inside the running loop, without its main loop, its signal handlers and its exits.

`Server` serves one ASGI application on one address. It promises to report the port it got, to end with a
`ConfigurationError` where it cannot have it, to wake at most once a second (and not at all without connections), and to
close gracefully: idle connections at once, busy ones after their answer, the rest when the grace period is over.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from headrace.errors import ConfigurationError

if TYPE_CHECKING:
    from uvicorn.server import ServerState

    from headrace.http.source import HttpSource

__all__ = ["Guards", "Server", "split_address"]

#: Connections that the kernel holds until they are accepted.
BACKLOG = 2048


class Guards:
    """What connections may cost, and the sweep that holds them to it.

    Attributes:
        connections: how many at once; further ones are answered 503.
        header_bytes: size of a request's headers with its target.
        header_timeout: seconds from the connection, or from the first byte of a request, to the end of its headers.
        body_timeout: seconds from there to the end of its body; also how long a client may leave an answer unread.
        keep_alive: seconds that a connection may be idle.
    """

    def __init__(
        self,
        *,
        connections: int = 1024,
        header_bytes: int = 16 * 1024,
        header_timeout: float = 10.0,
        body_timeout: float = 30.0,
        keep_alive: float = 75.0,
    ) -> None:
        self.connections = connections
        self.header_bytes = header_bytes
        self.header_timeout = header_timeout
        self.body_timeout = body_timeout
        self.keep_alive = keep_alive
        self.now = 0.0
        self.no_content = b""
        self.direct: Mapping[bytes, HttpSource] = {}
        self.empty = asyncio.Event()
        self.empty.set()
        self._state: ServerState | None = None
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, state: ServerState) -> None:
        """Look after this server's connections."""
        self._loop = asyncio.get_running_loop()
        self._state = state

    def connected(self) -> None:
        """A connection was made."""
        self.empty.clear()
        if self._timer is None:
            self._sweep()

    def disconnected(self) -> None:
        """A connection was lost."""
        if self._state is not None and not self._state.connections:
            self.empty.set()

    def _sweep(self) -> None:
        state = self._state
        assert state is not None
        self.now = self._loop.time()
        date = formatdate(time(), usegmt=True).encode()
        state.default_headers = [(b"date", date)]
        self.no_content = b"HTTP/1.1 204 No Content\r\ndate: " + date + b"\r\n\r\n"
        for connection in list(state.connections):
            if min(connection.deadline, connection.unread) <= self.now:  # type: ignore[union-attr]
                connection.expire()  # type: ignore[union-attr]
        if not self.empty.is_set():
            self._timer = self._loop.call_later(1.0, self._sweep)
        else:
            self._timer = None

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server:
    """One listener.

    Args:
        asgi: the ASGI application.
        host, port: the address; port 0 takes a free one.
        guards: limits of connections and time.
        what: what the address is for, in messages and in the line that reports it (``http``, ``admin``).
        path: a Unix socket to listen on instead of the address.
        shared: other processes of this user may listen on the same port; the kernel spreads connections over them.
    """

    def __init__(
        self,
        asgi: Any,
        host: str,
        port: int,
        *,
        guards: Guards | None = None,
        what: str = "http",
        path: Path | None = None,
        shared: bool = False,
    ) -> None:
        self._asgi = asgi
        self._host = host
        self._port = port
        self._path = path
        self._shared = shared
        self._what = what
        self._guards = guards or Guards()
        self._server: asyncio.Server | None = None
        self._state: ServerState | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on; the port is the real one after `open`."""
        return self._host, self._port

    @property
    def authority(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    def __str__(self) -> str:
        return f"{self._what}={self.authority}"

    async def open(self) -> None:
        """Listen. Raises `ConfigurationError` where the address is in use, not this machine's, or forbidden."""
        from uvicorn.config import Config
        from uvicorn.server import ServerState

        from headrace.http.asgi import Routes
        from headrace.http.protocol import GuardedProtocol

        if self._path is None:
            listener = _bind(self._host, self._port, self._what, self._shared)
            self._port = listener.getsockname()[1]
        else:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._path.unlink(missing_ok=True)
            listener.bind(str(self._path))
            listener.setblocking(False)
        protocol = type("Protocol", (GuardedProtocol,), {"guards": self._guards})
        config = Config(
            self._asgi,
            http=protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        config.load()
        state = self._state = ServerState()
        self._guards.watch(state)
        if isinstance(self._asgi, Routes):
            self._guards.direct = self._asgi.direct
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: protocol(config, state, {}, loop), sock=listener, backlog=BACKLOG
        )

    def stop(self) -> None:
        """Accept no further connection; close idle ones, and the others after the answer that they wait for."""
        if self._server is not None:
            self._server.close()
        if self._state is not None:
            for connection in list(self._state.connections):
                connection.shutdown()

    async def close(self, grace: float = 5.0) -> None:
        """`stop`, then wait up to ``grace`` seconds for the answers that are under way; then cut off what is left."""
        self.stop()
        state = self._state
        if state is None:
            return
        try:
            async with asyncio.timeout(grace):
                await self._guards.empty.wait()
        except TimeoutError:
            for connection in list(state.connections):
                connection.transport.abort()
            for task in list(state.tasks):
                task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        self._guards.stop()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None


def _bind(host: str, port: int, what: str, shared: bool) -> socket.socket:
    """A listening socket, or an error that names the address and the remedy."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigurationError(f"{what}: {host!r} is no address of this machine: {error.strerror}") from None
    listener = socket.socket(family, kind, number)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host in ("", "::") else 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        reasons = {
            errno.EADDRINUSE: "the port is in use; stop what has it, or choose another (0 takes a free one)",
            errno.EACCES: "this user may not have that port; choose one above 1023",
            errno.EADDRNOTAVAIL: "the host is no address of this machine",
        }
        reason = reasons.get(error.errno or 0, str(error.strerror))
        raise ConfigurationError(f"cannot listen on {host}:{port} ({what}): {reason}") from None
    return listener


def split_address(text: str, *, default_port: int, what: str) -> tuple[str, int]:
    """Take ``host:port``, ``:port``, ``host`` or ``[v6]:port`` apart. Raises `ConfigurationError` naming the
    setting."""
    host, colon, port = text.rpartition(":")
    if not colon or (text.startswith("[") and text.endswith("]")):
        host, port = text, str(default_port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigurationError(
            f"{what}: write an IPv6 address in brackets, such as [::1]:{default_port}; got {text!r}"
        )
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"{what} is host:port, such as 127.0.0.1:{default_port}; got {text!r}")
    return host or "127.0.0.1", int(port)
