"""The outbox in PostgreSQL, and which of an app's processes is its relay.

The relay's place is a row with its owner's token: whoever finds that owner's lease run out takes it. A process that commits
and is not the relay tells it by NOTIFY, outside of any transaction and at most every 50 ms: inside, each commit would take
one lock of the whole database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import sql

from headrace.errors import StoreUnavailable
from headrace.stores.postgres.ledger import PostgresLedger
from headrace.stores.postgres.pool import Connection, Pool
from headrace.stores.shared import digests

__all__ = ["PostgresOutbox"]

log = logging.getLogger("headrace.stores")

#: Seconds between two notifications of one process, and between attempts to listen.
NOTIFY_EVERY: Final = 0.05
LISTEN_AGAIN: Final = 1.0

_ACQUIRE: Final = (
    "INSERT INTO headrace_relays AS l (app, token) VALUES (%s, %s) ON CONFLICT (app) DO UPDATE SET token = excluded.token"
    " WHERE l.token = excluded.token"
    " OR NOT EXISTS (SELECT FROM headrace_owners o WHERE o.token = l.token AND o.expires > clock_timestamp())"
    " RETURNING 1"
)
_PENDING: Final = "SELECT number, data FROM headrace_outbox WHERE app = %s AND refused IS NULL ORDER BY number LIMIT %s"


class PostgresOutbox:
    """See `headrace.engine.transactions.Outbox`."""

    def __init__(self, pool: Pool, ledger: PostgresLedger, app: str) -> None:
        self._pool = pool
        self._ledger = ledger
        self._app = app
        #: A name that any app's name fits in.
        self._channel = f"headrace_{digests(app, [('outbox', '')])[0].hex()[:24]}"
        self._news = asyncio.Event()
        self._mine = False
        self._listener: asyncio.Task[None] | None = None
        self._notifying: asyncio.Task[None] | None = None

    async def acquire(self) -> bool:
        mine = bool(await self._pool.fetch(_ACQUIRE, (self._app, self._ledger.token)))
        if mine and self._listener is None:
            self._listener = asyncio.get_running_loop().create_task(self._listen())
        self._mine = mine
        return mine

    async def pending(self, limit: int) -> Sequence[tuple[int, bytes]]:
        self._news.clear()
        return [(number, data) for number, data in await self._pool.fetch(_PENDING, (self._app, limit))]

    async def remove(self, numbers: Sequence[int]) -> None:
        await self._pool.fetch("DELETE FROM headrace_outbox WHERE number = ANY(%s)", (list(numbers),))

    async def refuse(self, number: int, reason: str) -> None:
        clean = reason[:500].replace("\0", " ")
        await self._pool.fetch("UPDATE headrace_outbox SET refused = %s WHERE number = %s", (clean, number))

    def committed(self) -> None:
        self._news.set()
        if not self._mine and self._notifying is None:
            self._notifying = asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        try:
            await asyncio.sleep(NOTIFY_EVERY)
        finally:
            self._notifying = None
        try:
            await self._pool.fetch(sql.SQL("NOTIFY {}").format(sql.Identifier(self._channel)))
        except StoreUnavailable as error:
            log.debug("the relay was not told, it looks by itself: %s", error)

    async def wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def _listen(self) -> None:
        """A connection of its own that hears of other processes' commits; without it the relay looks by itself."""
        while True:
            try:
                connection = await self._pool.connect()
                try:
                    await self._hear(connection)
                finally:
                    await self._pool.discard(connection)
            except (StoreUnavailable, psycopg.Error) as error:
                log.debug("the outbox cannot be listened to: %s", error)
            await asyncio.sleep(LISTEN_AGAIN)

    async def _hear(self, connection: Connection) -> None:
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
        self._news.set()
        async for _ in connection.notifies():
            self._news.set()

    async def close(self) -> None:
        """Stop listening."""
        tasks = [task for task in (self._listener, self._notifying) if task is not None]
        self._listener = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
