"""A request to a receiver under our own server, without a task, a scope or ASGI messages.

The answer of most requests is 204 after one handler; the machinery around it would cost more than the event. `Cycle`
stands where uvicorn's request cycle stands in its connection, so that pipelining, keep-alive and shutdown stay
uvicorn's. It follows the same steps as `headrace.http.request.exchange`, by the same functions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from headrace.http.answers import NO_CONTENT, TITLES, Answer, Refused, problem
from headrace.http.body import too_large
from headrace.http.request import content, head

if TYPE_CHECKING:
    from headrace.http.delivery import HttpDelivery
    from headrace.http.protocol import GuardedProtocol
    from headrace.http.request import Headers
    from headrace.http.source import HttpSource

__all__ = ["Cycle"]

log = logging.getLogger("headrace.http")


class _Nobody:
    """uvicorn wakes a cycle's task by its event; here nobody waits."""

    def set(self) -> None:
        return None


class Cycle:
    """One request and its answer."""

    __slots__ = (
        "_deliveries",
        "_fields",
        "_headers",
        "_protocol",
        "_since",
        "_source",
        "body",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
        "started",
    )

    message_event = _Nobody()

    def __init__(self, protocol: GuardedProtocol, source: HttpSource, headers: Headers, keep_alive: bool) -> None:
        self._protocol = protocol
        self._source = source
        self._headers = headers
        self._since = perf_counter()  # uvloop's own clock ticks in milliseconds
        self._fields: dict[bytes, bytes] = {}
        self._deliveries: Sequence[HttpDelivery] = ()
        self.keep_alive = keep_alive
        self.body: bytes | bytearray = b""
        self.more_body = True
        self.started = False
        self.disconnected = False
        self.response_started = False
        self.response_complete = False

    def start(self) -> None:
        """Its turn on the connection has come: judge the headers, go on where the body is whole already."""
        self.started = True
        try:
            self._fields = head(self._headers, self._source.receiver.limits)
            if len(self.body) > self._source.receiver.limits.body:
                raise too_large(self._source.receiver.limits.body)
        except Refused as refused:
            self._source.requests.refused(refused.status)
            self._answer(refused.answer())
            return
        if not self.more_body:
            self._submit()

    def add(self, part: bytes) -> None:
        """A part of the body came."""
        body = self.body
        if not body:
            self.body = part
        elif len(body) <= self._source.receiver.limits.body:
            if isinstance(body, bytes):
                self.body = bytearray(body)
            self.body += part
        if self.started and len(self.body) > self._source.receiver.limits.body:
            self._answer(too_large(self._source.receiver.limits.body).answer())

    def end(self) -> None:
        """The body is whole."""
        self.more_body = False
        if self.started and not self.response_complete:
            self._submit()

    def _submit(self) -> None:
        source = self._source
        body = self.body if isinstance(self.body, bytes) else bytes(self.body)
        self.body = b""
        try:
            body, events = content(self._headers, self._fields, body, source.receiver.limits)
            self._protocol.gone = self._gone
            self._deliveries = source.submit(self._headers, body, events, self._answer)
        except Refused as refused:
            self._source.requests.refused(refused.status)
            self._answer(refused.answer())
        except Exception:
            log.exception("a request to %s failed inside the receiver; the sender was told 500", source.path)
            self._answer(problem(500, "the receiver failed; send the event again", retry_after=1))

    def _gone(self) -> None:
        self._source.abandon(self._deliveries)

    def _answer(self, answer: Answer) -> None:
        protocol = self._protocol
        protocol.gone = None
        self.response_started = self.response_complete = True
        self._source.requests.add(answer.status, perf_counter() - self._since)
        if not (self.disconnected or protocol.refused or protocol.transport.is_closing()):
            if answer is NO_CONTENT and self.keep_alive:
                protocol.transport.write(protocol.guards.no_content)
            else:
                protocol.transport.write(self._composed(answer))
            if not self.keep_alive:
                protocol.transport.close()
        protocol.on_response_complete()

    def _composed(self, answer: Answer) -> bytes:
        lines = [b"HTTP/1.1 %d %b\r\n" % (answer.status, TITLES[answer.status].encode())]
        for name, value in (*self._protocol.server_state.default_headers, *answer.headers):
            lines += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        return b"".join((*lines, b"\r\n", answer.body))
