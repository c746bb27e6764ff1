"""uvicorn's HTTP protocol with the guards that it lacks.

A client may be slow, silent, endless or one of too many; none of them may hold a connection or memory for longer or
larger than stated here. All deadlines are absolute (a trickle does not extend them) and are looked at once a second by
one sweep over the connections, so that a request pays for an attribute, not for a timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headrace.http.answers import TITLES, problem
from headrace.http.direct import Cycle
from headrace.http.request import DISCONNECT

if TYPE_CHECKING:
    from headrace.http.server import Guards
    from headrace.http.source import HttpSource

__all__ = ["GuardedProtocol"]

NEVER: Final = float("inf")
#: Bytes of chunk framing and trailers that a body may have beside eight times its own size (a chunk of one byte costs
#: six).
FRAMING: Final = 512 * 1024
#: Seconds that a closed connection may take to accept what it was told.
LINGER: Final = 5.0


class GuardedProtocol(HttpToolsProtocol):
    """One connection. The sweep ends it at the loop's time ``deadline``, or ``unread`` where answers are not read."""

    guards: Guards  # of the subclass that a server makes for itself

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.access_log = False
        self.deadline = NEVER
        self.unread = NEVER
        self._in_head = False
        self._in_body = False
        self._chunk = 0
        self._fresh = 0
        self._head_bytes = 0
        self._raw_bytes = 0
        self._body_bytes = 0
        self._refusal = 400
        self.refused = False
        self._lost = False
        self._advancing = False
        self.gone: Callable[[], None] | None = None
        self._direct: Cycle | None = None
        self._extensions = {DISCONNECT: self._on_disconnect}

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        guards = self.guards
        guards.connected()
        self.deadline = guards.now + guards.header_timeout
        if len(self.connections) > guards.connections:
            self._refuse(503, f"more than {guards.connections} connections; try again later", retry_after=1)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self.pipeline.clear()
        super().connection_lost(exc)
        gone, self.gone = self.gone, None
        if gone is not None:
            gone()
        self.guards.disconnected()

    def _on_disconnect(self, gone: Callable[[], None] | None) -> None:
        self.gone = gone
        if gone is not None and self._lost:
            self.gone = None
            self.loop.call_soon(gone)

    def expire(self) -> None:
        """The deadline is over: say so where a request is half read, then cut the connection off."""
        if self.refused or self.transport.is_closing() or self.flow.write_paused:
            self.transport.abort()  # it does not even read what it is told
        elif self._in_head or (self._in_body and not self.cycle.response_started):
            part = "headers" if self._in_head else "body"
            self._refuse(408, f"the request's {part} did not end in time; send it faster")
        else:
            self.transport.close()
        self.deadline = self.guards.now + LINGER

    def _refuse(self, status: int, detail: str, *, retry_after: float | None = None) -> None:
        """Answer in the server's own name and close; nothing more is read."""
        self.refused = True
        answer = problem(status, detail, headers=((b"connection", b"close"),), retry_after=retry_after)
        lines = [f"HTTP/1.1 {status} {TITLES[status]}\r\n".encode()]
        for name, value in (*self.server_state.default_headers, *answer.headers):
            lines += (name, b": ", value, b"\r\n")
        self.transport.write(b"".join((*lines, b"\r\n", answer.body)))
        self.deadline = self.guards.now + LINGER
        if status != 503 and (self.cycle is None or self.cycle.response_complete):
            # Closing with unread bytes resets the connection, and the client may never see the answer: what it still
            # sends is thrown away until it closes, or the deadline does.
            self.flow.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this for whatever its parser refuses, an exception of our callbacks included."""
        if self.refused:
            return
        if self._refusal == 431:
            msg = f"the request's headers are larger than {self.guards.header_bytes} bytes"
        self._refuse(self._refusal, msg)

    # Reading

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        size = self._chunk = len(data)
        if self._in_head:
            self._head_bytes += size
        elif self._in_body:
            self._raw_bytes += size
        else:
            self._fresh = size
        super().data_received(data)
        if self._in_head:
            if self._head_bytes > self.guards.header_bytes:
                self._refusal = 431
                self.send_400_response("")
        elif self._in_body and self._raw_bytes > 8 * self._body_bytes + FRAMING:
            self.send_400_response("the body's framing is larger than the body")

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.deadline = self.guards.now + self.guards.header_timeout
        self._in_head = True
        # A message that begins with its chunk has the whole of it; what was pipelined before another is not counted.
        self._head_bytes, self._fresh = self._fresh, 0
        self._raw_bytes = self._body_bytes = 0

    def on_headers_complete(self) -> None:
        guards = self.guards
        if self._chunk + self._head_bytes > guards.header_bytes:
            # Only now worth counting: each line has a colon, a space and a line end beside its name and value.
            total = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if total > guards.header_bytes:
                self._refusal = 431
                raise ValueError("headers too large")
        self._in_head = False
        self._in_body = True
        self.deadline = guards.now + guards.body_timeout
        source = guards.direct.get(self.url)
        if source is not None and self._takes(source):
            self._begin(source)
        else:
            self._begin_asgi()

    def _takes(self, source: HttpSource) -> bool:
        parser = self.parser
        return (
            parser.get_method() in source.methods
            and not self.expect_100_continue
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
        )

    def _begin(self, source: HttpSource) -> None:
        previous = self.cycle
        keep_alive = self.parser.should_keep_alive()
        cycle = Cycle(self, source, self.headers, keep_alive)
        self.headers = []  # trailers are no headers of the event
        self.cycle = self._direct = cycle  # type: ignore[assignment]
        if previous is None or previous.response_complete:
            cycle.start()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))  # type: ignore[arg-type]

    def _begin_asgi(self) -> None:
        self._direct = None
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.headers.extend(headers)
        self.url, self.expect_100_continue = url, expects
        self.scope["extensions"] = self._extensions  # type: ignore[typeddict-item]
        super().on_headers_complete()
        self.headers = []

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, Cycle):
            cycle.start()
        else:
            super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._direct is None:
            super().on_body(body)
        elif not self._direct.response_complete:
            self._direct.add(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self.deadline = NEVER
        direct, self._direct = self._direct, None
        if direct is None:
            super().on_message_complete()
        else:
            direct.end()
        if self.cycle.response_complete:
            self.deadline = self.guards.now + self.guards.keep_alive

    # Writing

    def on_response_complete(self) -> None:
        if self.transport.is_closing():
            return
        if not self.flow.write_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._advance()
        elif not self._in_body and not self._in_head:
            self.deadline = self.guards.now + self.guards.keep_alive

    def _advance(self) -> None:
        """Start what was pipelined, as far as it is answered at once; a loop, or a chunk full of it would recurse."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self.pipeline:
                cycle, app = self.pipeline.pop()
                self._start_asgi_task(cycle, app)
                if not cycle.response_complete:
                    break
        finally:
            self._advancing = False

    def pause_writing(self) -> None:
        # A client that sends and does not read: nothing more is taken from it until it does.
        super().pause_writing()
        self.flow.pause_reading()
        self.unread = self.guards.now + self.guards.body_timeout

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unread = NEVER
        if not self.transport.is_closing():
            self.flow.resume_reading()
