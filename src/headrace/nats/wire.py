"""The NATS client protocol as it arrives: bytes to messages, many of them for each read.

nats-py parses with a regular expression per message, makes a `Msg` object and crosses a queue and a task for it. Here a
read is cut into tuples, put into the list of the subscription that they are for (a `Tap`), and each tap that got something
is woken once. What is no message (PING, INFO, errors) goes to nats-py's client, which keeps the connection.

Source: NATS client protocol, https://docs.nats.io/reference/reference-protocols/nats-protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from headrace.nats.client import Connection

__all__ = ["Link", "Message", "Tap", "header_pairs", "publication", "status"]

#: A control line longer than this is no NATS (the server's default limit is 4 KiB).
_LINE_LIMIT: Final = 64 * 1024
#: Lengths as they are written, to numbers: the same few again and again, and a look-up costs a third of reading one.
_lengths: dict[bytes, int] = {}
_LENGTHS_LIMIT: Final = 4096


class Message(NamedTuple):
    """One message as it arrived. ``headers`` is the block with its version line, or empty."""

    subject: bytes
    reply: bytes
    headers: bytes
    body: bytes


class Tap:
    """A subscription whose messages are taken in batches.

    ``messages`` grows as they arrive; ``wake`` is called once a read that added some. The attributes with an underscore are
    what nats-py reads of a subscription when it subscribes again after a reconnect, or closes.
    """

    __slots__ = ("_id", "_queue", "_subject", "key", "messages", "wake")

    _max_msgs: Final = 0
    _received: Final = 0
    _wait_for_msgs_task: Final = None
    _message_iterator: Final = None
    _pending_next_msgs_calls: Final = None

    def __init__(self, number: int, subject: str, queue: str, wake: Callable[[], None]) -> None:
        self._id = number
        self._subject = subject
        self._queue = queue
        self.key = str(number).encode()
        self.messages: list[tuple[bytes, bytes, bytes, bytes]] = []
        self.wake = wake


class Link(asyncio.Protocol):
    """One connection's reading end, set as the transport's protocol once nats-py has shaken hands.

    ``before`` is the protocol that nats-py's writer knows: it is told of pauses and of the end, so that draining works.
    """

    __slots__ = ("_chunks", "_have", "_need", "before", "closed", "connection", "taps")

    def __init__(self, connection: Connection, taps: dict[bytes, Tap], before: Any) -> None:
        self.connection = connection
        self.taps = taps
        self.before = before
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 0

    def pause_writing(self) -> None:
        self.before.pause_writing()

    def resume_writing(self) -> None:
        self.before.resume_writing()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.before.connection_lost(exc)
        if not self.closed.done():
            self.closed.set_result(exc)

    def data_received(self, data: bytes) -> None:
        """Take everything complete out of what has arrived; wake each tap once."""
        if self._chunks:
            self._chunks.append(data)
            self._have += len(data)
            # A large body arrives in many reads: joined once it is whole, not at every read.
            if self._have < self._need:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
        touched: list[Tap] = []
        rest = self._cut(data, touched)
        if rest < len(data):
            left = data[rest:]
            self._chunks.append(left)
            self._have = len(left)
        for tap in touched:
            tap.wake()

    def _cut(self, data: bytes, touched: list[Tap]) -> int:
        """Cut messages out of ``data``; the position of the first byte that is not complete yet."""
        find = data.find
        known = self.taps.get
        length = _lengths.get
        size = len(data)
        position = 0
        # Messages of one subscription come in rows: it is looked up once a row.
        number = b""
        tap: Tap | None = None
        append: Callable[[tuple[bytes, bytes, bytes, bytes]], None] = _nowhere
        while position < size:
            end = find(b"\r\n", position)
            if end < 0:
                if size - position > _LINE_LIMIT:
                    self.connection.broken(ValueError("a control line without an end"))
                    return size
                self._need = 0
                return position
            start = end + 2
            words = data[position:end].split(b" ")
            kind = words[0]
            if kind == b"HMSG" and len(words) == 6:
                _, subject, of, reply, headers, total = words
            elif kind == b"MSG" or kind == b"HMSG":
                subject, of, total = words[1], words[2], words[-1]
                headers = words[-2] if kind == b"HMSG" else b"0"
                reply = words[3] if kind == b"MSG" and len(words) == 5 else b""
            else:
                self.connection.control(data[position:end])
                position = start
                continue
            stop = start + (length(total) or _length(total))
            if stop + 2 > size:
                self._need = stop + 2 - position
                return position
            if of != number:
                number = of
                tap = known(number)
                append = _nowhere if tap is None else tap.messages.append
                if tap is not None and tap not in touched:
                    touched.append(tap)
            middle = start + (length(headers) or _length(headers))
            append((subject, reply, data[start:middle], data[middle:stop]))
            position = stop + 2
        return position


def _length(word: bytes) -> int:
    """A length not met before."""
    found = int(word)
    if len(_lengths) < _LENGTHS_LIMIT:
        _lengths[word] = found
    return found


def _nowhere(message: tuple[bytes, bytes, bytes, bytes]) -> None:
    """A message of a subscription that has ended."""


def header_pairs(block: bytes) -> list[list[str]]:
    """A header block as (name, value) pairs, in order; values that are no UTF-8 keep their bytes as surrogates.

    The version line is left out. Written for speed first: what well-behaved clients write is split in one pass.
    """
    if len(block) < 14:
        return []
    text = block[:-4].decode("utf-8", "surrogateescape")
    lines = text.split("\r\n")
    pairs = [line.split(": ", 1) for line in lines[1:]]
    for pair in pairs:
        if len(pair) != 2:
            return _loose_pairs(lines[1:])
    return pairs


def _loose_pairs(lines: list[str]) -> list[list[str]]:
    """Pairs of lines that are not all ``Name: value``; a line without a colon is none."""
    pairs = []
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name.strip():
            pairs.append([name.strip(), value.strip()])
    return pairs


def status(block: bytes) -> tuple[int, str, dict[str, str]] | None:
    """The status that the server put into a header block (code, description, further headers), or ``None``."""
    # "NATS/1.0 408 Request Timeout\r\n…" against "NATS/1.0\r\n…"
    if block[8:9] != b" ":
        return None
    line, _, rest = block[9:].partition(b"\r\n")
    code, _, description = line.decode("utf-8", "replace").partition(" ")
    if not code.isdigit():
        return None
    return int(code), description.strip(), dict(header_pairs(b"NATS/1.0\r\n" + rest))


def publication(subject: bytes, reply: bytes, headers: bytes, body: bytes) -> bytes:
    """The bytes of one PUB or, with headers (the whole block), HPUB."""
    if headers:
        return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, len(headers), len(headers) + len(body), headers, body)
    return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(body), body)
