"""Waiting to become the owner of a consumer: one open pull of one message. Who is given a message by it is pinned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from headrace.nats.consumers import GROUP
from headrace.nats.pulls import EXPIRES, HEARTBEAT
from headrace.nats.wire import Tap, header_pairs, publication, status

if TYPE_CHECKING:
    from headrace.nats.client import Connection

__all__ = ["Standby"]

_PIN: Final = "nats-pin-id"
_REQUEST: Final = msgspec.json.encode(
    {"batch": 1, "expires": round(EXPIRES * 1e9), "idle_heartbeat": round(HEARTBEAT * 1e9), "group": GROUP}
)
#: Seconds without a sign of life after which the pull is sent again.
_SILENT: Final = 2.5 * HEARTBEAT


class Standby:
    """Of one source. ``pinned`` is called with the pin's id and the message that brought it, ``gone`` when the server says that
    the consumer is, ``heard`` at every sign of life."""

    __slots__ = ("_connection", "_gone", "_heard", "_pinned", "_tap", "_until")

    def __init__(
        self,
        connection: Connection,
        *,
        pinned: Callable[[str, tuple[bytes, bytes, bytes, bytes]], None],
        gone: Callable[[], None],
        heard: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._pinned = pinned
        self._gone = gone
        self._heard = heard
        self._tap: Tap | None = None
        self._until = 0.0

    def ask(self, next_subject: bytes) -> bool:
        """See that a pull is open; ``True`` where this is the first one."""
        now = asyncio.get_running_loop().time()
        if now < self._until:
            return False
        first = self._tap is None
        if self._tap is None:
            self._tap = self._connection.tap(self._connection.new_inbox(), self._arrived)
        if self._connection.written(publication(next_subject, self._tap._subject.encode(), b"", _REQUEST)):
            self._until = now + _SILENT
        return first

    def again(self) -> None:
        """What is open died with its connection: the next `ask` sends another."""
        self._until = 0.0

    def leave(self) -> None:
        """Wait no more."""
        if self._tap is not None:
            self._connection.untap(self._tap)
            self._tap = None
        self._until = 0.0

    def _arrived(self) -> None:
        tap = self._tap
        if tap is None:
            return
        messages, tap.messages = tap.messages, []
        for message in messages:
            _, reply, headers, _ = message
            if reply:
                pin = next((value for name, value in header_pairs(headers) if name.lower() == _PIN), "")
                self.leave()
                self._heard()
                self._pinned(pin, message)
                return
            found = status(headers)
            if found is not None and found[0] == 100:
                self._until = asyncio.get_running_loop().time() + _SILENT
                continue
            self._until = 0.0
            if found is not None and (found[0] == 503 or "deleted" in found[1].lower()):
                self._gone()
        self._heard()
