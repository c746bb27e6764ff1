"""Publishes what lies in the outbox: in order per key, confirmed before it is deleted.

Of the rows of one key only the first is under way at a time, so that a publication that has to be repeated is not overtaken;
different keys go together. A crash between confirmation and deletion publishes rows again, with the ids that they had: the
broker's duplicate window makes it once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from headrace.engine.failpoints import passing
from headrace.engine.sink import Publication, Published
from headrace.engine.transactions import Outbox, Outgoing
from headrace.errors import ConnectionFailed, HeadraceError, PublishFailed, StoreUnavailable
from headrace.event import Event

__all__ = ["Relay"]

log = logging.getLogger("headrace.engine")

#: Rows that are read, published and deleted together. Where so many wait for a destination that is away, pages grow up to the
#: second number, so that what is behind them finds its way.
PAGE: Final = 2_000
WIDEST_PAGE: Final = 64_000
#: Seconds between looks at the outbox where nothing wakes the relay, and between attempts to become the relay.
IDLE: Final = 2.0
#: Seconds between attempts in an outage, doubled each time up to the second.
BACKOFF: Final = (0.1, 2.0)

_decode = msgspec.msgpack.Decoder(Outgoing).decode
Row = tuple[int, Outgoing]
Publish = Callable[[Any, Sequence[Publication]], Awaitable[Sequence[Published | Exception]]]


class Relay:
    """The relay of one app; of many processes one is at work, the others wait for its place.

    ``publish`` publishes to a destination that ``resolve`` has made of a row's (and opened); ``resolve`` raises
    `ConfigurationError` for one that nobody knows any more. ``trouble``: one sentence while it waits, else empty.
    ``relayed`` counts what was published.
    """

    def __init__(self, outbox: Outbox, publish: Publish, resolve: Callable[[str], Awaitable[Any]]) -> None:
        self.trouble = ""
        self.relayed = 0
        self._outbox = outbox
        self._publish = publish
        self._resolve = resolve
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._relayed = passing("relayed")

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """Begin; ``failed`` hears of a defect."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(
            lambda task: None if task.cancelled() or task.exception() is None else failed(task.exception())  # type: ignore[arg-type]
        )

    async def stop(self, within: float) -> None:
        """Publish what is there, but no longer than so many seconds; a successor finds the rest."""
        self._stopping = True
        self._outbox.committed()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=within)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        delay, most = BACKOFF
        size = PAGE
        while True:
            done = False
            try:
                mine = await self._outbox.acquire()
                rows = await self._outbox.pending(size) if mine else ()
                done = not rows or await self._page([(number, _decode(data)) for number, data in rows])
                size = PAGE if done else min(2 * size, WIDEST_PAGE) if len(rows) == size else size
            except StoreUnavailable as error:
                self._waits(str(error))
            if not done:
                if self._stopping:
                    return
                await asyncio.sleep(delay)
                delay = min(2 * delay, most)
                continue
            delay = BACKOFF[0]
            self.trouble = ""
            if not rows:
                if self._stopping:
                    return
                await self._outbox.wait(IDLE)

    async def _page(self, rows: Sequence[Row]) -> bool:
        """Publish and remove of these what can be; ``False`` where something has to be tried again. The rest does not wait for
        it, nor do rows that are written meanwhile."""
        lanes: dict[tuple[str, str], deque[Row]] = {}
        for row in rows:
            number, outgoing = row
            # What has no order is a lane by itself.
            lanes.setdefault((outgoing.destination, outgoing.lane or f"row {number}"), deque()).append(row)
        confirmed: list[int] = []
        waiting = False
        try:
            while lanes:
                by_destination: dict[str, list[tuple[str, str]]] = {}
                for lane in lanes:
                    by_destination.setdefault(lane[0], []).append(lane)
                for destination, heads in by_destination.items():
                    results = await self._send(destination, [lanes[lane][0] for lane in heads])
                    for lane, result in zip(heads, results, strict=True):
                        number, _ = lanes[lane][0]
                        if isinstance(result, Published):
                            confirmed.append(number)
                        elif isinstance(result, PublishFailed) and not result.transient:
                            await self._refused(number, destination, result)
                        else:
                            # What is behind it in its lane must not pass it.
                            self._waits(f"the outbox waits for {destination}: {result}")
                            waiting = True
                            del lanes[lane]
                            continue
                        lanes[lane].popleft()
                        if not lanes[lane]:
                            del lanes[lane]
        finally:
            if confirmed:
                self.relayed += len(confirmed)
                if self._relayed is not None:
                    self._relayed(len(confirmed))
                await self._outbox.remove(confirmed)
        return not waiting

    async def _send(self, destination: str, rows: Sequence[Row]) -> Sequence[Published | Exception]:
        publications = [
            Publication(Event.from_json(outgoing.event), outgoing.key, outgoing.replay) for _, outgoing in rows
        ]
        try:
            return await self._publish(await self._resolve(destination), publications)
        except PublishFailed as error:
            return [error] * len(rows)
        except (ConnectionFailed, StoreUnavailable) as error:
            return [PublishFailed(str(error), transient=True)] * len(rows)
        except HeadraceError as error:
            return [PublishFailed(str(error), transient=False)] * len(rows)

    async def _refused(self, number: int, destination: str, why: Exception) -> None:
        log.error("outbox row %d is refused by %s and stays in the table: %s", number, destination, why)
        await self._outbox.refuse(number, str(why))

    def _waits(self, why: str) -> None:
        if not self.trouble:
            log.warning("%s", why)
        self.trouble = why
