"""HTTP/1.1 to one API server: connections that are kept for the next request, answers that are read as they arrive.

A general client library costs as much memory as all else that a watch needs, and a wakeup more an event; here is what a
Kubernetes client uses: no redirects, no cookies, no compression, no more in memory of an answer than its reader is behind.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from headrace.kubernetes.dialing import Place, dial

__all__ = ["Reply", "Wire"]

#: Seconds that a connection is kept without a request.
_KEEP: Final = 30.0
#: Bytes of an answer that wait for its reader before the connection is read no further.
_AHEAD: Final = 1 << 18
#: Methods that do the same when they are done twice: asked again where a kept connection proves to be closed.
_REPEATABLE: Final = ("GET", "PUT", "DELETE")


class Wire:
    """The connections to one server.

    Args:
        server: its URL; a path in it is put before every path.
        name: whom its certificate must name; by default its host.
        proxy: URL of an HTTP proxy.
    """

    def __init__(self, server: str, *, name: str | None, proxy: str | None) -> None:
        self._place = Place.of(server)
        self._prefix = urlsplit(server).path.rstrip("/")
        self._name = name
        self._proxy = None if proxy is None else Place.of(proxy)
        self._lines: set[_Line] = set()
        self._idle: list[_Line] = []
        self._head = f"Host: {self._place.header}\r\nUser-Agent: headrace\r\nAccept-Encoding: identity\r\n"
        if self._proxy is not None and not self._place.secure:
            # A proxy is told where to; with TLS it tunnels.
            self._prefix = f"http://{self._place.header}{self._prefix}"
            if self._proxy.authorization:
                self._head += f"Proxy-Authorization: {self._proxy.authorization}\r\n"

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[str, str]],
        body: bytes | None,
        tls: ssl.SSLContext | None,
        timeout: float,
    ) -> Reply:
        """Send a request; its reply once status and headers are there, to be closed.

        Args:
            tls: the settings of now; connections made with others are not used again.
            timeout: seconds until the whole reply must be read.

        Raises:
            TimeoutError: no answer in time. OSError: the connection could not be made, or broke.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        lines = [f"{method} {self._prefix}{path} HTTP/1.1\r\n", self._head]
        lines += [f"{name}: {_line(value)}\r\n" for name, value in headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}\r\n")
        sent = "".join((*lines, "\r\n")).encode() + (body or b"")
        while True:
            line = self._kept(tls)
            again = line is not None and method in _REPEATABLE
            if line is None:
                async with asyncio.timeout_at(deadline):
                    line = await self._open(tls)
            reply = line.send(sent, deadline)
            try:
                await reply.begun()
            except OSError as error:
                reply.close()
                if again and reply.untouched and not isinstance(error, TimeoutError):
                    continue  # it was closed as we sent
                raise
            except BaseException:
                reply.close()
                raise
            return reply

    def close(self) -> None:
        """Close every connection."""
        for line in list(self._lines):
            line.close()

    def _kept(self, tls: ssl.SSLContext | None) -> _Line | None:
        while self._idle:
            line = self._idle.pop()
            line.timer.cancel()
            if line.tls is tls and not line.closed:
                return line
            line.close()
        return None

    async def _open(self, tls: ssl.SSLContext | None) -> _Line:
        line = _Line(self, tls)
        await dial(line, self._place, tls=tls, name=self._name, proxy=self._proxy)
        self._lines.add(line)
        return line

    def keep(self, line: _Line) -> None:
        """Its reply is complete: keep it for the next request."""
        self._idle.append(line)
        line.timer = asyncio.get_running_loop().call_later(_KEEP, line.close)

    def forget(self, line: _Line) -> None:
        """It is closed."""
        self._lines.discard(line)
        if line in self._idle:
            self._idle.remove(line)
            line.timer.cancel()


class _Line(asyncio.Protocol):
    """One connection."""

    timer: asyncio.TimerHandle

    def __init__(self, wire: Wire, tls: ssl.SSLContext | None) -> None:
        self.tls = tls
        self.closed = False
        self._wire = wire
        self._reply: Reply | None = None
        self._transport: asyncio.Transport

    def send(self, request: bytes, deadline: float) -> Reply:
        """Send a request; its reply."""
        self._reply = reply = Reply(self, deadline)
        if self.closed:
            reply.lost(None)
        else:
            self._transport.write(request)
        return reply

    def done(self, reusable: bool) -> None:
        """The reply is complete."""
        self._reply = None
        if reusable and not self.closed:
            self._transport.resume_reading()
            self._wire.keep(self)
        else:
            self.close()

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        if not self.closed:
            self._transport.resume_reading()

    def close(self) -> None:
        # Without TLS's good-bye: a peer that is gone would be waited for.
        self.closed = True
        self._transport.abort()
        self._wire.forget(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by their class

    def data_received(self, data: bytes) -> None:
        if self._reply is not None:
            self._reply.feed(data)
        else:
            self.close()  # nobody asked

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._wire.forget(self)
        if self._reply is not None:
            self._reply.lost(exc)


class Reply:
    """An answer: ``status``, ``headers`` (by lower-case name), and its body, to be read once and closed.

    Attributes:
        untouched: nothing of it has arrived.
    """

    def __init__(self, line: _Line, deadline: float) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.untouched = True
        self._line: _Line | None = line
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._size = 0
        self._paused = False
        self._complete = False
        self._error: OSError | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._timer = self._loop.call_at(deadline, self._expire)

    # For the reader

    async def begun(self) -> None:
        """Wait for status and headers. Raises `OSError`."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def some(self) -> bytes:
        """What has arrived, at least a byte; empty at the end.

        Raises:
            TimeoutError: the deadline passed. OSError: the connection broke before the end.
        """
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._complete:
                return b""
            await self._wait()
        parts, self._parts = self._parts, []
        self._size = 0
        if self._paused and self._line is not None:
            self._paused = False
            self._line.resume()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read(self, most: int | None = None) -> bytes:
        """All of it, or as much as holds ``most`` bytes. Raises as `some`."""
        parts = []
        size = 0
        while (most is None or size < most) and (part := await self.some()):
            parts.append(part)
            size += len(part)
        return b"".join(parts)[:most]

    def close(self) -> None:
        """Read no further; the connection is kept only where the reply is complete."""
        self._timer.cancel()
        line, self._line = self._line, None
        if line is not None:
            line.close()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # From the connection

    def feed(self, data: bytes) -> None:
        """Bytes arrived."""
        self.untouched = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(ConnectionError(f"what was answered is not HTTP: {error}"))
        if self._size > _AHEAD and not self._paused and self._line is not None:
            self._paused = True
            self._line.pause()
        self._wake()

    def lost(self, why: Exception | None) -> None:
        """The connection is closed."""
        bounded = "content-length" in self.headers or "transfer-encoding" in self.headers
        if why is None and self.status and not bounded:
            self._finish(False)  # its end is the connection's end (RFC 9112, section 6.3)
        elif isinstance(why, OSError):
            self._fail(why)
        else:
            self._fail(ConnectionError("the connection was closed before the answer was complete"))

    def _expire(self) -> None:
        self._fail(TimeoutError())

    def _fail(self, error: OSError) -> None:
        if self._complete or self._error is not None:
            return
        self._error = error
        self.close()
        self._wake()

    def _finish(self, reusable: bool) -> None:
        self._complete = True
        self._timer.cancel()
        line, self._line = self._line, None
        if line is not None:
            line.done(reusable)
        self._wake()

    # From the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self.headers.clear()  # an interim answer; the answer follows
            return
        encoding = self.headers.get("content-encoding", "identity")
        if encoding != "identity":
            self._fail(ConnectionError(f"the answer came as {encoding}, which was not asked for"))
        self.status = status

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)

    def on_message_complete(self) -> None:
        if self.status:
            self._finish(self._parser.should_keep_alive())


def _line(value: str) -> str:
    """A header's value; line ends, as a token file may have them inside, would begin another header."""
    if "\r" in value or "\n" in value or "\0" in value:
        raise ConnectionError("a credential has a line end inside, and cannot be sent")
    return value
