"""Pulling from a consumer: open pull requests against the engine's credit, and what they have brought.

A pull is answered as messages arrive, so several can be open at once and none needs to be full: a lone message is
delivered at once. What is open never exceeds the credit. The server spreads messages over open pulls as it likes and says how
much of a pull was left when it ends early, so the sums are kept, not each pull.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headrace.engine.source import Credit
from headrace.nats.wire import Tap, publication, status

if TYPE_CHECKING:
    from headrace.nats.client import Connection

__all__ = ["EXPIRES", "HEARTBEAT", "Pulls", "Window"]

_encode = msgspec.json.Encoder().encode

#: Seconds that a pull stays open, and between the server's signs of life on a quiet one.
EXPIRES: Final = 30.0
HEARTBEAT: Final = 5.0
#: Bytes reserved for a message before sizes are known, at least.
_SHARE: Final = 16 * 1024


class Window:
    """Items and bytes that the server may still send. ``heard`` is the loop's time of the last sign of life."""

    __slots__ = ("average", "bytes", "heard", "items", "maximum_batch", "maximum_bytes")

    def __init__(self) -> None:
        self.items = 0
        self.bytes = 0.0
        self.average = 0.0
        self.heard = 0.0
        self.maximum_batch = 0
        self.maximum_bytes = 0

    def next(self, credit: Credit) -> tuple[int, int] | None:
        """The next pull's (messages, bytes), or ``None`` where what is open is enough for now.

        Small top-ups are left until a quarter of the credit is free: a pull costs the server more than a message.
        """
        items = credit.items - self.items
        if items <= 0 or (self.items and items * 4 < credit.items):
            return None
        left = credit.bytes - self.bytes
        if left < 1:
            if self.items:
                return None
            left = 1
        if self.maximum_batch:
            items = min(items, self.maximum_batch)
        size = min(left, items * max(_SHARE, 4 * self.average))
        if self.maximum_bytes:
            size = min(size, self.maximum_bytes)
        return items, max(1, int(size))

    def sent(self, items: int, size: int) -> None:
        """A pull went out."""
        self.items += items
        self.bytes += size

    def took(self, items: int, size: int) -> None:
        """Messages arrived; each uses up its share of the bytes, whatever its size: what is left of a pull's bytes ends
        with its last message."""
        if items >= self.items:
            self.items = 0
            self.bytes = 0.0
        else:
            self.bytes -= self.bytes / self.items * items
            self.items -= items
        if items:
            self.average += (size / items - self.average) * 0.2

    def ended(self, items: int) -> None:
        """A pull ended with so many messages undelivered."""
        if items >= self.items:
            self.items = 0
            self.bytes = 0.0
        else:
            self.bytes -= self.bytes / self.items * items
            self.items -= items

    def reset(self) -> None:
        """Nothing is open any more."""
        self.items = 0
        self.bytes = 0.0


class Pulls:
    """Of one source. ``arrived`` is called when something came; ``claim`` gives what a pull says about its owner. Of what the
    server says about a pull, ``displaced`` is told that another owner is pinned, and ``lost`` what calls for a look at the consumer.
    """

    __slots__ = (
        "_arrived",
        "_claim",
        "_connection",
        "_displaced",
        "_lost",
        "_oversize",
        "next_subject",
        "tap",
        "window",
    )

    def __init__(
        self,
        connection: Connection,
        *,
        arrived: Callable[[], None],
        claim: Callable[[], dict[str, str]],
        displaced: Callable[[str], None],
        lost: Callable[[str], None],
    ) -> None:
        self.next_subject = b""
        self.tap: Tap | None = None
        self.window = Window()
        self._connection = connection
        self._arrived = arrived
        self._claim = claim
        self._displaced = displaced
        self._lost = lost
        self._oversize = False

    # Where from

    def aim(self, next_subject: str, *, maximum_batch: int, maximum_bytes: int) -> None:
        """Pull from this consumer from now on; its limits of a pull, 0 for none."""
        self.next_subject = next_subject.encode()
        self.window.maximum_batch = maximum_batch
        self.window.maximum_bytes = maximum_bytes
        self.renew()

    def renew(self) -> None:
        """A new reply subject: pulls that are open die with the old one. What has come is kept."""
        kept: list[tuple[bytes, bytes, bytes, bytes]] = []
        if self.tap is not None:
            kept = [message for message in self.tap.messages if message[1]]
            self._connection.untap(self.tap)
        self.tap = self._connection.tap(self._connection.new_inbox(), self._arrived)
        self.tap.messages = kept
        self.window.reset()
        if kept:
            self.window.sent(len(kept), sum(len(message[2]) + len(message[3]) for message in kept))
        self.window.heard = asyncio.get_running_loop().time()

    def forget(self) -> list[bytes]:
        """Listen no more, and drop what has come and was not taken; its reply subjects."""
        replies = self.untaken()
        if self.tap is not None:
            self._connection.untap(self.tap)
            self.tap = None
        self.window.reset()
        return replies

    # Asking

    def ask(self, credit: Credit) -> None:
        """Ask for what the credit allows and is not asked for yet."""
        if self._oversize and not self.window.items:
            # The next message is larger than the bytes that are free: it alone, or it could never pass.
            self._request(1, 0)
            self._oversize = False
            return
        wanted = self.window.next(credit)
        if wanted is not None:
            self._request(*wanted)

    def _request(self, items: int, size: int) -> None:
        request: dict[str, Any] = {
            "batch": items,
            "expires": round(EXPIRES * 1e9),
            "idle_heartbeat": round(HEARTBEAT * 1e9),
            **self._claim(),
        }
        if size:
            request["max_bytes"] = size
        if self.tap is None:
            return
        if self._connection.written(publication(self.next_subject, self.tap._subject.encode(), b"", _encode(request))):
            self.window.sent(items, size)

    # What has come

    def add(self, message: tuple[bytes, bytes, bytes, bytes]) -> None:
        """A message that came by another way."""
        assert self.tap is not None
        self.tap.messages.append(message)
        self.window.sent(1, len(message[3]))

    def take(self, limit: int) -> list[tuple[bytes, bytes, bytes, bytes]]:
        """Messages, and states (without a reply subject), in the order in which they came."""
        tap = self.tap
        if tap is None:
            return []
        messages = tap.messages
        if len(messages) > limit:
            tap.messages = messages[limit:]
            del messages[limit:]
        else:
            tap.messages = []
        return messages

    def took(self, items: int, size: int) -> None:
        """So many of them were handed over, and so many bytes."""
        self.window.took(items, size)
        self.window.heard = asyncio.get_running_loop().time()
        self._oversize = False

    def untaken(self) -> list[bytes]:
        """The reply subjects of messages that have come and were not taken."""
        return [] if self.tap is None else [message[1] for message in self.tap.messages if message[1]]

    def look(self) -> None:
        """Where nobody takes: a state that came last may say that what is held was lost."""
        tap = self.tap
        if tap is not None and tap.messages and not tap.messages[-1][1]:
            self._states(tap)

    def _states(self, tap: Tap) -> None:
        states = [message for message in tap.messages if not message[1]]
        tap.messages = [message for message in tap.messages if message[1]]
        for _, _, headers, _ in states:
            self.state(headers)

    def state(self, headers: bytes) -> None:
        """The server says how a pull stands."""
        window = self.window
        window.heard = asyncio.get_running_loop().time()
        found = status(headers)
        if found is None or found[0] == 100:
            return
        code, description, more = found
        words = description.lower()
        left = int(more.get("Nats-Pending-Messages", "0"))
        if code == 503:
            self._lost("the consumer does not answer")
        elif code == 423:
            window.ended(left)
            self._displaced(description)
        elif code == 409 and "deleted" in words:
            self._lost("the consumer was deleted")
        elif code == 409 and ("leadership" in words or "shutdown" in words):
            self._lost(words)
        elif code == 409 and "maxbytes" in words.replace(" ", ""):
            window.ended(left)
            window.average *= 2
            self._oversize = not window.items
        elif code in (404, 408) or (code == 409 and "batch completed" in words):
            window.ended(left)
        else:
            window.ended(left)
            self._lost(f"the server answered {code} {description}")

    def silent(self, now: float) -> bool:
        """Whether an open pull has shown no sign of life for too long. One whose messages have all come, and wait here to be
        taken, is open no more and owes none."""
        tap, window = self.tap, self.window
        if not window.items or now - window.heard <= 2.5 * HEARTBEAT:
            return False
        waiting = 0
        if tap is not None:
            self._states(tap)  # those that came between messages, which nobody took, too
            waiting = len(tap.messages)
        return window.items > waiting and now - window.heard > 2.5 * HEARTBEAT
