"""Dead letters put where an app keeps them, and its replays counted there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from headrace.engine.dead_letters import DeadLetter, letter_id
from headrace.settings import Settings
from headrace.worker import Worker


def make(app: str, number: int, *, handler: str = "bill", key: str | None = None, amount: int = -1) -> DeadLetter:
    """A letter of an order event in binary mode."""
    return DeadLetter(
        id=letter_id(app, handler, "/shop", f"order-{number}", 0),
        app=app,
        handler=handler,
        source="nats:order.created",
        event_source="/shop",
        event_id=f"order-{number}",
        event_type="order.created",
        headers=[
            ("ce-specversion", b"1.0"),
            ("ce-id", f"order-{number}".encode()),
            ("ce-source", b"/shop"),
            ("ce-type", b"order.created"),
            ("ce-number", str(number).encode()),
            ("content-type", b"application/json"),
        ],
        body=b'{"number": %d, "amount": %d}' % (number, amount),
        reason="ValueError: negative amount",
        exception="ValueError" if number % 2 else "builtins.KeyError",
        message="negative amount",
        traceback="Traceback …",
        attempts=8,
        first_seen=1000.0 + number,
        last_seen=2000.0 + number,
        key=key,
    )


def plant(app: str, letters: Sequence[DeadLetter], **variables: str) -> None:
    """Store the letters where the app's settings (``HEADRACE_*``) say."""

    async def put() -> None:
        worker = Worker(app, (), Settings.resolve({}, variables), role="letters")
        try:
            await worker.open()
            assert worker.dead_letters is not None
            for first in range(0, len(letters), 1000):
                assert not any(await worker.dead_letters.put(letters[first : first + 1000]))
        finally:
            await worker.close()

    asyncio.run(put())
