"""Requests over a connection: one reply subject for all of them, a call-back each, no task."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from headrace.errors import HeadraceError
from headrace.nats.wire import Tap, publication, status

if TYPE_CHECKING:
    from headrace.nats.client import Connection

__all__ = ["NoResponders", "Requests", "Silent"]

#: Called with an answer's headers and body, or with ``None`` where the connection was lost before it came.
Answer = Callable[[bytes | None, bytes], None]


class Silent(HeadraceError):
    """No answer: not connected, or none in time. Whether the request was carried out is not known."""

    exit_code = 4


class NoResponders(Silent):
    """Nobody listens on a request's subject: no such consumer, JetStream is off, or its leader is being elected."""


class Requests:
    """Of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asked: dict[bytes, Answer] = {}
        self._answers: Tap | None = None
        self._prefix = b""
        self._numbers = itertools.count(1)

    def lost(self) -> None:
        """The connection was lost: nobody will answer what is asked."""
        waiting, self._asked = self._asked, {}
        for answer in waiting.values():
            answer(None, b"")

    def reply_to(self, answer: Answer) -> bytes:
        """A reply subject for one answer, given as (headers, body); the headers are ``None`` when the connection is lost."""
        if self._answers is None:
            inbox = self._connection.new_inbox()
            self._prefix = inbox.encode() + b"."
            self._answers = self._connection.tap(inbox + ".*", self._answered)
        subject = self._prefix + b"%d" % next(self._numbers)
        self._asked[subject] = answer
        return subject

    def unanswered(self, replies: list[bytes]) -> None:
        """Tell who waits for these answers that none will come."""
        for reply in replies:
            answer = self._asked.pop(reply, None)
            if answer is not None:
                answer(None, b"")

    def forget(self, reply: bytes) -> None:
        """No longer wait for this answer."""
        self._asked.pop(reply, None)

    def _answered(self) -> None:
        tap = self._answers
        assert tap is not None
        messages, tap.messages = tap.messages, []
        pop = self._asked.pop
        for subject, _, headers, body in messages:
            answer = pop(subject, None)
            if answer is not None:
                answer(headers, body)

    async def ask(
        self, subject: str, body: bytes = b"", *, timeout: float = 5.0, headers: bytes = b""
    ) -> tuple[bytes, bytes]:
        """One request; the answer's (headers, body).

        Raises:
            NoResponders: nobody listens there.
            Silent: not connected, or no answer within ``timeout`` seconds.
        """
        future: asyncio.Future[tuple[bytes, bytes] | None] = asyncio.get_running_loop().create_future()

        def answer(headers: bytes | None, body: bytes) -> None:
            if not future.done():
                future.set_result(None if headers is None else (headers, body))

        reply = self.reply_to(answer)
        if not self._connection.written(publication(subject.encode(), reply, headers, body)):
            self.forget(reply)
            raise Silent(
                f"not connected to NATS at {self._connection.address.shown}: {self._connection.trouble or 'connecting'}"
            )
        try:
            # Not `wait_for`: before Python 3.12 it swallows a cancellation that meets the answer.
            async with asyncio.timeout(timeout):
                found = await future
        except TimeoutError:
            raise Silent(
                f"NATS at {self._connection.address.shown} did not answer {subject} within {timeout:g} s"
            ) from None
        finally:
            self.forget(reply)
        if found is None:
            raise Silent(f"the connection to NATS was lost before {subject} was answered")
        state = status(found[0])
        if state is not None and state[0] == 503:
            raise NoResponders(f"nobody answers {subject} at NATS {self._connection.address.shown}")
        return found
