"""How a connection to the API server comes to be: addresses tried beside each other, keepalive, the proxy's tunnel, TLS."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from typing import Any, Final, NamedTuple, cast
from urllib.parse import unquote, urlsplit

__all__ = ["CONNECT", "Place", "basic", "dial"]

#: Seconds to connect, the proxy and TLS included.
CONNECT: Final = 10.0
#: Seconds that an address has before the next one is tried beside it (RFC 8305, section 5).
_HEAD_START: Final = 0.25
#: A dead peer is noticed within idle + interval × count = 30 s, even on a connection where nothing is sent.
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_COUNT = 15, 5, 3
#: Bytes that the head of a proxy's answer may have.
_LONGEST_HEAD: Final = 64 * 1024


class Place(NamedTuple):
    """What a URL says of its server: host, port, whether TLS is spoken, and the credentials before its host as the value
    of a header."""

    host: str
    port: int
    secure: bool
    authorization: str

    @classmethod
    def of(cls, url: str) -> Place:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        authorization = "" if parts.username is None else basic(unquote(parts.username), unquote(parts.password or ""))
        return cls(parts.hostname or "", parts.port or (443 if secure else 80), secure, authorization)

    @property
    def authority(self) -> str:
        """``host:port``, as a proxy is told it."""
        return f"{self._bracketed}:{self.port}"

    @property
    def header(self) -> str:
        """The value of ``Host``: without the port where it is the usual one."""
        return self._bracketed if self.port == (443 if self.secure else 80) else self.authority

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def basic(user: str, password: str) -> str:
    """The value of an ``Authorization`` header (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


async def dial(
    protocol: asyncio.Protocol, place: Place, *, tls: ssl.SSLContext | None, name: str | None, proxy: Place | None
) -> asyncio.Transport:
    """Connect ``protocol``; its ``connection_made`` is called when all is done, its transport returned.

    Args:
        tls: for the server; ``None`` where it speaks plain HTTP.
        name: whom its certificate must name; by default the host.
        proxy: an HTTP proxy; it is asked for a tunnel where the server speaks TLS.

    Raises:
        TimeoutError: it took longer than `CONNECT`.
        OSError: it failed; among them `ssl.SSLError`.
    """
    loop = asyncio.get_running_loop()
    name = name or place.host
    async with asyncio.timeout(CONNECT):
        sock = await _connected(proxy or place)
        try:
            if proxy is None or tls is None:
                over = tls if proxy is None else _proxy_tls(proxy)
                named = None if over is None else name if proxy is None else proxy.host
                transport, _ = await loop.create_connection(
                    lambda: protocol, sock=sock, ssl=over, server_hostname=named
                )
                return transport
            over = _proxy_tls(proxy)
            tunnel, asking = await loop.create_connection(
                _Tunnel, sock=sock, ssl=over, server_hostname=None if over is None else proxy.host
            )
        except BaseException:
            sock.close()
            raise
        try:
            await asking.ask(place, proxy)
            through = await loop.start_tls(tunnel, protocol, tls, server_hostname=name)
        except BaseException:
            tunnel.abort()
            raise
        assert through is not None
        protocol.connection_made(through)
        return through


def _proxy_tls(proxy: Place) -> ssl.SSLContext | None:
    return ssl.create_default_context() if proxy.secure else None


async def _connected(place: Place) -> socket.socket:
    """A connection to one of the host's addresses: each gets a moment before the next is tried beside it."""
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    attempts: set[asyncio.Task[socket.socket]] = set()
    failures: list[BaseException] = []
    waiting = list(addresses)
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(asyncio.ensure_future(_attempt(waiting.pop(0))))
            done, attempts = await asyncio.wait(
                attempts, timeout=_HEAD_START if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            found = [attempt.result() for attempt in done if attempt.exception() is None]
            for spare in found[1:]:
                spare.close()
            if found:
                return found[0]
            failures += [attempt.exception() or OSError() for attempt in done]
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close_late)
    raise failures[0] if failures else OSError(f"{place.host} has no address")


async def _attempt(address: Any) -> socket.socket:
    made = _socket(address)
    try:
        await asyncio.get_running_loop().sock_connect(made, address[4])
    except BaseException:
        made.close()
        raise
    return made


def _socket(address: Any) -> socket.socket:
    """For one of ``getaddrinfo``'s addresses, not yet connected."""
    made = socket.socket(*address[:3])
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", _KEEPALIVE_IDLE),
            ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL),
            ("TCP_KEEPCNT", _KEEPALIVE_COUNT),
        ):
            if hasattr(socket, option):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    except BaseException:
        made.close()
        raise
    return made


def _close_late(attempt: asyncio.Task[socket.socket]) -> None:
    """It succeeded in the moment in which it was given up."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel (RFC 9110, section 9.3.6)."""

    def __init__(self) -> None:
        self._head = b""
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport

    async def ask(self, place: Place, proxy: Place) -> None:
        """Raises `OSError` where it refuses."""
        lines = [f"CONNECT {place.authority} HTTP/1.1", f"Host: {place.authority}"]
        if proxy.authorization:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        self._transport.write("\r\n".join((*lines, "", "")).encode("latin-1"))
        status = (await self._answer).split(b"\r\n", 1)[0].decode("latin-1")
        _, _, said = status.partition(" ")
        if not said.startswith("2"):
            raise OSError(f"the proxy {proxy.authority} refused to connect to {place.authority}: {said or status}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by their class

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self._answer.done():
            return
        if b"\r\n\r\n" in self._head:
            self._answer.set_result(self._head)
        elif len(self._head) > _LONGEST_HEAD:
            self._answer.set_exception(OSError("what the proxy answered has no end"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the proxy closed the connection"))
