"""Confirmed publishing: many messages under way at once, each confirmed or explained.

A batch is one write; the server's acks come back to one subscription and are counted down. Nothing is repeated here: after an
outage the engine publishes again, and the server knows repetitions by `Nats-Msg-Id`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headrace.errors import PublishFailed
from headrace.nats.wire import publication, status

if TYPE_CHECKING:
    from headrace.nats.client import Connection

__all__ = ["Confirmed", "Publisher", "header_block"]

#: Seconds to wait for the server's confirmation.
CONFIRM_WITHIN: Final = 5.0
#: Errors that waiting may mend though their code is no outage's: the stream is full and refuses new messages.
_FULL: Final = (10077, 10047, 10023, 10167)
_CHUNK: Final = 1024 * 1024


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class Confirmed(msgspec.Struct):
    """The server's answer to one publish."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


_decode = msgspec.json.Decoder(Confirmed).decode


class Missing(PublishFailed):
    """No stream listens on the subject, or JetStream is not there."""


class Refused(PublishFailed):
    """The stream refused this message."""

    def __init__(self, message: str, *, transient: bool, err_code: int) -> None:
        super().__init__(message, transient=transient)
        self.err_code = err_code


class _Batch:
    """Answers still missing; ``done`` is set with the last one."""

    __slots__ = ("done", "left", "results", "what")

    def __init__(self, count: int, what: str) -> None:
        self.results: list[Confirmed | Exception | None] = [None] * count
        self.left = count
        self.what = what
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answer(self, position: int, headers: bytes | None, body: bytes) -> None:
        self.settle(position, self.read(headers, body))

    def settle(self, position: int, result: Confirmed | Exception) -> None:
        if self.results[position] is None:
            self.results[position] = result
            self.left -= 1
            if not self.left and not self.done.done():
                self.done.set_result(None)

    def read(self, headers: bytes | None, body: bytes) -> Confirmed | Exception:
        """What an answer says."""
        if headers is None:
            return PublishFailed(f"the connection to NATS was lost before {self.what} was confirmed", transient=True)
        if not body and status(headers) is not None:
            return Missing(
                f"no stream takes {self.what}: none captures the subject, or JetStream is not available", transient=True
            )
        try:
            found = _decode(body)
        except msgspec.DecodeError:
            return PublishFailed(
                f"{self.what} was answered by something that is no stream: {body[:100]!r}. Who else listens there?",
                transient=False,
            )
        if found.error is None:
            return found
        error = found.error
        transient = error.code >= 500 or error.code in (408, 429) or error.err_code in _FULL
        return Refused(
            f"JetStream refused {self.what}: {error.description} (error {error.err_code})",
            transient=transient,
            err_code=error.err_code,
        )


class Publisher:
    """Publishes to streams over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def publish(self, messages: Sequence[tuple[bytes, bytes, bytes]], what: str) -> list[Confirmed | Exception]:
        """Publish (subject, header block, body) in order and wait for every confirmation; a result for each.

        ``what`` names it in messages to people.
        """
        connection = self._connection
        batch = _Batch(len(messages), what)
        if not messages:
            return []
        limit = connection.max_payload
        out: list[bytes] = []
        size = 0
        replies: list[bytes] = []
        for position, (subject, headers, body) in enumerate(messages):
            if len(headers) + len(body) > limit:
                batch.settle(
                    position,
                    PublishFailed(
                        f"{what}: the message has {len(headers) + len(body)} bytes and the server takes {limit}; "
                        "send less, or raise max_payload",
                        transient=False,
                    ),
                )
                continue
            reply = connection.requests.reply_to(partial(batch.answer, position))
            replies.append(reply)
            out.append(publication(subject, reply, headers, body))
            size += len(body)
            if size >= _CHUNK:
                self._write(out)
                out, size = [], 0
                await connection.writable()
        self._write(out)
        try:
            if not batch.done.done():
                await asyncio.wait([batch.done], timeout=CONFIRM_WITHIN)
        finally:
            if batch.left:
                for reply in replies:
                    connection.requests.forget(reply)
        late = PublishFailed(f"NATS did not confirm {what} within {CONFIRM_WITHIN:g} s", transient=True)
        return [late if result is None else result for result in batch.results]

    async def publish_batch(self, messages: Sequence[tuple[bytes, bytes, bytes]], what: str) -> Confirmed | Exception:
        """Publish an atomic batch (ADR-50), whose headers the caller has set; the server answers once, for all."""
        connection = self._connection
        batch = _Batch(1, what)
        reply = connection.requests.reply_to(partial(batch.answer, 0))
        last = len(messages) - 1
        # The first message needs a reply subject too: its empty answer says that the server knows batches.
        opened: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def begun(headers: bytes | None, body: bytes) -> None:
            if not opened.done():
                answer = (
                    None if headers is not None and not body and status(headers) is None else batch.read(headers, body)
                )
                opened.set_result(answer if isinstance(answer, Exception) else None)

        first = connection.requests.reply_to(begun)
        out = [
            publication(subject, reply if number == last else first if number == 0 else b"", headers, body)
            for number, (subject, headers, body) in enumerate(messages)
        ]
        try:
            if not connection.written(b"".join(out)):
                return PublishFailed(f"not connected to NATS: {what} is not stored", transient=True)
            waiting: list[asyncio.Future[Any]] = [batch.done, opened]
            await asyncio.wait(waiting, timeout=CONFIRM_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            if opened.done() and not batch.done.done():
                error = opened.result()
                if error is not None:
                    return error
                await asyncio.wait([batch.done], timeout=CONFIRM_WITHIN)
        finally:
            connection.requests.forget(first)
            connection.requests.forget(reply)
        found = batch.results[0]
        if found is None:
            return PublishFailed(f"NATS did not confirm {what} within {CONFIRM_WITHIN:g} s", transient=True)
        return found

    def _write(self, out: list[bytes]) -> None:
        if out and not self._connection.written(b"".join(out)):
            # Not connected: whoever waits for these answers is told so now.
            self._connection.requests.unanswered([piece.split(b" ", 3)[2] for piece in out])


def header_block(pairs: Sequence[tuple[str, str]]) -> bytes:
    """Header pairs as a block; what would end a line inside a value becomes a space."""
    lines = ["NATS/1.0"]
    for name, value in pairs:
        if not value.isprintable():
            value = value.replace("\r", " ").replace("\n", " ")
        lines.append(f"{name}: {value}")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape")
