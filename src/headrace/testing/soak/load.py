"""The load: orders and jobs at a rate, each published until the broker has confirmed it, and only then written down."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Final

from headrace.app import App
from headrace.errors import ConnectionFailed, PublishFailed
from headrace.event import Event
from headrace.testing.history import History

__all__ = ["Load"]

#: Keys of the orders.
CUSTOMERS: Final = 200
#: Events of a batch; one key is in it once, so that its order of publication is certain.
BATCH: Final = 40
#: One event in so many is of a kind that ends as a dead letter.
ILL: Final = 500
#: Seconds before an event that was not confirmed is published again.
AGAIN: Final = 0.2


class Load:
    """Publishes from `run` on until it is cancelled.

    Args:
        url: the broker. channels: of orders and of jobs. folder: where the history is.
        rate: events a second, half of each sort. seed: draws the kinds of events.
    """

    def __init__(self, url: str, channels: tuple[str, str], folder: Path, *, rate: float, seed: int) -> None:
        self._app = App("soakload", broker=url)
        self._orders, self._jobs = channels
        self._history = History(folder / "history")
        self._rate = rate
        self._random = random.Random(seed)
        self._number = 0
        self.published = 0
        #: Kind of each event that is not an ordinary one.
        self.kinds: dict[str, str] = {}
        self.retries = 0

    async def run(self) -> None:
        """Publish until cancelled; a batch that has begun is finished first."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            # After an outage the load goes on at its rate: it does not make up for it.
            due = max(due + BATCH / self._rate, loop.time())
            await asyncio.sleep(due - loop.time())
            batch = asyncio.ensure_future(self._batch())
            try:
                await asyncio.shield(batch)
            except asyncio.CancelledError:
                await batch
                raise

    async def _batch(self) -> None:
        first = self._number
        self._number += BATCH
        await asyncio.gather(*(self._one(number) for number in range(first, first + BATCH)))

    async def _one(self, number: int) -> None:
        if number % 2:
            kind = self._random.choice(("rejected", "poison", "fixable")) if not self._random.randrange(ILL) else ""
            await self.publish(f"j{number}", None, kind)
        else:
            kind = self._random.choice(("rejected", "poison")) if not self._random.randrange(ILL) else ""
            await self.publish(f"o{number}", f"c{number // 2 % CUSTOMERS}", kind)

    async def publish(self, id: str, customer: str | None, kind: str) -> None:
        """An order of this customer, or a job: published until it is confirmed, then written down."""
        if kind:
            self.kinds[id] = kind
        channel = self._jobs if customer is None else self._orders
        data = {"kind": kind} if customer is None else {"customer": customer, "kind": kind}
        marks = {"kind": kind} if kind else {}
        event = Event(type=channel, source="/soak", id=id, datacontenttype="application/json", data=data, **marks)
        while True:
            try:
                await self._app.publish(channel, event, key=customer)
                break
            except (PublishFailed, ConnectionFailed) as error:
                if isinstance(error, PublishFailed) and not error.transient:
                    raise
                self.retries += 1
                await asyncio.sleep(AGAIN)
        self._history.published(id, customer)
        self.published += 1

    async def close(self) -> None:
        """Let go of the broker and the history."""
        with contextlib.suppress(PublishFailed, ConnectionFailed):
            await self._app.close()
        self._history.close()
