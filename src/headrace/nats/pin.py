"""The pin of a consumer's owner, and what keeps it alive: a pull that carries it, every two seconds (nothing else does)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from headrace.nats.consumers import GROUP
from headrace.nats.wire import Tap, publication, status

if TYPE_CHECKING:
    from headrace.nats.client import Connection

__all__ = ["Pin"]

_encode = msgspec.json.Encoder().encode
#: Seconds between the pulls that keep the pin; it lives for `consumers.PIN_SECONDS`.
_RENEW_EVERY: Final = 2.0


class Pin:
    """Of one source. ``id`` is empty where this process is not the owner. ``displaced`` is called with the server's words when
    the pin is another's, ``gone`` when the consumer does not answer."""

    __slots__ = ("_connection", "_displaced", "_gone", "_next_subject", "_tap", "_timer", "id")

    def __init__(self, connection: Connection, *, displaced: Callable[[str], None], gone: Callable[[], None]) -> None:
        self.id = ""
        self._connection = connection
        self._displaced = displaced
        self._gone = gone
        self._next_subject = b""
        self._tap: Tap | None = None
        self._timer: asyncio.TimerHandle | None = None

    def claim(self) -> dict[str, str]:
        """What a pull of the owner carries."""
        return {"group": GROUP, "id": self.id}

    def request(self) -> bytes:
        """A pull that delivers nothing (one byte at most, no wait: refused or empty at once) but renews the pin."""
        return _encode({"batch": 1, "max_bytes": 1, "no_wait": True, **self.claim()})

    def hold(self, next_subject: bytes) -> None:
        """Renew it now and from now on, while there is one."""
        self._next_subject = next_subject
        self._renew()

    def _renew(self) -> None:
        self.stop()
        if not self.id:
            return
        self._timer = asyncio.get_running_loop().call_later(_RENEW_EVERY, self._renew)
        if self._tap is None:
            self._tap = self._connection.tap(self._connection.new_inbox(), self._answered)
        self._connection.written(publication(self._next_subject, self._tap._subject.encode(), b"", self.request()))

    def stop(self) -> None:
        """Renew it no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def drop(self) -> None:
        """This process is not the owner any more."""
        self.id = ""
        self.stop()

    def close(self) -> None:
        """Stop, and listen to no answer."""
        self.stop()
        if self._tap is not None:
            self._connection.untap(self._tap)
            self._tap = None

    def _answered(self) -> None:
        tap = self._tap
        if tap is None:
            return
        messages, tap.messages = tap.messages, []
        for _, _, headers, _ in messages:
            found = status(headers)
            if found is None:
                continue
            if found[0] == 423:
                self._displaced(found[1])
            elif found[0] == 503:
                self._gone()
