"""Connections to one PostgreSQL server, and what their failures mean.

A call that gets no answer in time has its connection cut: waiting for a server that stands still, or asking it to cancel,
would take as long as the outage. Whoever called hears `StoreUnavailable` and repeats; what it repeats does no harm twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import psycopg

from headrace.engine.ledger import Owner
from headrace.errors import ConfigurationError, ConnectionFailed, StoreUnavailable
from headrace.stores.postgres.schema import migrate
from headrace.stores.postgres.wire import Connection

__all__ = ["Connection", "Pool", "unavailable"]

T = TypeVar("T")

#: Connections for ledger, dead letters and the rest; transactions of handlers at once, each with one of its own.
SHARED: Final = 4
TRANSACTIONS: Final = 32
#: Seconds to wait for the answer to a call, for a new connection, and, at the start, for a server that is not up yet.
ANSWER: Final = 5.0
CONNECT: Final = 5
STARTING: Final = 5.0

#: A host that is gone is noticed within some twenty seconds, also by a statement that may take as long as it likes.
KEEPALIVE: Final[dict[str, Any]] = {
    "keepalives_idle": 10, "keepalives_interval": 3, "keepalives_count": 3, "tcp_user_timeout": 20_000,
}  # fmt: skip

#: Classes of SQLSTATE that waiting or an operator mends: connection lost, too many of something, disk full, server going
#: down or starting, read-only after a failover, and a deadlock or serialization failure.
_TROUBLE: Final = ("08", "25006", "40", "53", "55P03", "57", "58")
_REFUSED: Final = ("28", "3D", "42501", "3F")
_REFUSALS: Final = ("authentication failed", "no pg_hba.conf entry", "does not exist", "no password supplied")


def unavailable(error: BaseException, url: str) -> StoreUnavailable | None:
    """A driver's error as the outage that it is, or ``None`` for a mistake in a statement."""
    if not isinstance(error, psycopg.Error):
        return None
    state = getattr(error, "sqlstate", None) or ""
    lost = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) and not state
    if not lost and not state.startswith(_TROUBLE):
        return None
    failure = StoreUnavailable(f"store {url}: {str(error).strip() or type(error).__name__}")
    failure.__cause__ = error
    return failure


class Pool:
    """The connections of a store. ``url`` as it may be shown, ``conninfo`` as the driver takes it."""

    def __init__(self, url: str, conninfo: str) -> None:
        self.url = url
        self._conninfo = conninfo
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._shared = asyncio.Semaphore(SHARED)
        self._transactions = asyncio.Semaphore(TRANSACTIONS)
        self._open = False

    async def open(self, owner: Owner) -> None:
        """Connect and migrate. Raises `ConnectionFailed` where the server refuses us, `ConfigurationError` where the
        database cannot be a store, `StoreUnavailable` where no server answers."""
        self._open = True
        loop = asyncio.get_running_loop()
        end = loop.time() + STARTING
        while True:
            try:
                async with self.connection() as connection:
                    await self.within(connection, migrate(connection, self.url), 60.0)
            except StoreUnavailable:
                if loop.time() > end:
                    raise
                await asyncio.sleep(0.2)
            except psycopg.Error as error:
                raise ConfigurationError(
                    f"store {self.url}: its tables cannot be made: {str(error).strip()}; give the user the right to "
                    "create tables, or have them made by one who may (`headrace check` with that user's URL)"
                ) from error
            else:
                return

    async def call(self, work: Callable[[Connection], Awaitable[T]], *, wait: float | None = None) -> T:
        """Run some statements on a connection, within ``wait`` seconds (`ANSWER`). Raises `StoreUnavailable` in an outage: then
        nobody knows whether they were done."""
        async with self.connection() as connection:
            return await self.within(connection, work(connection), ANSWER if wait is None else wait)

    async def fetch(self, query: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        """One statement and its rows."""

        async def work(connection: Connection) -> list[tuple[Any, ...]]:
            cursor = await connection.execute(query, parameters, binary=True)
            return await cursor.fetchall() if cursor.description is not None else []

        return await self.call(work)

    @contextlib.asynccontextmanager
    async def connection(self, *, transaction: bool = False) -> AsyncIterator[Connection]:
        """A connection in autocommit mode, for the block. ``transaction``: from the handlers' share."""
        async with self._transactions if transaction else self._shared:
            connection = await self._taken()
            try:
                yield connection
            except BaseException as error:
                if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    self.cut(connection)
                failure = unavailable(error, self.url)
                if failure is None:
                    raise
                raise failure from error
            finally:
                await self._give_back(connection)

    async def _taken(self) -> Connection:
        if not self._open:
            raise StoreUnavailable(f"store {self.url} is closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and not _ended(connection):
                return connection
            await self.discard(connection)
        return await self.connect()

    async def connect(self) -> Connection:
        """A new connection, closed with the pool."""
        try:
            async with asyncio.timeout(CONNECT):
                connection = await Connection.connect(
                    self._conninfo, autocommit=True, connect_timeout=CONNECT, application_name="headrace", **KEEPALIVE
                )
        except TimeoutError as error:
            raise StoreUnavailable(f"store {self.url}: no connection within {CONNECT} s") from error
        except psycopg.Error as error:
            state = getattr(error, "sqlstate", None) or ""
            text = str(error).strip()
            if state.startswith(_REFUSED) or any(refusal in text for refusal in _REFUSALS):
                raise ConnectionFailed(f"store {self.url} refused the connection: {text}") from error
            raise StoreUnavailable(f"store {self.url}: {text}") from error
        self._all.add(connection)
        return connection

    async def _give_back(self, connection: Connection) -> None:
        if (
            not self._open
            or connection.closed
            or connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
        ):
            await self.discard(connection)
        else:
            self._idle.append(connection)

    async def discard(self, connection: Connection) -> None:
        """Close a connection that is not given back."""
        self.cut(connection)
        self._all.discard(connection)
        await connection.close()

    async def within(self, connection: Connection, work: Awaitable[T], wait: float | None = ANSWER) -> T:
        """The work's result, or an outage after ``wait`` seconds (``None``: never). Cut, not cancelled: see above."""
        connection.hasty += 1
        limit = asyncio.timeout(wait)
        try:
            async with limit:
                return await work
        except asyncio.CancelledError:
            self.cut(connection)
            raise
        except TimeoutError as error:
            if not limit.expired():
                raise
            self.cut(connection)
            raise StoreUnavailable(f"store {self.url} did not answer within {wait or 0:g} s") from error
        finally:
            connection.hasty -= 1

    def cut(self, connection: Connection) -> None:
        """End a connection's stream: the driver sees its end at once, whatever the server does. It is not used again."""
        self._all.discard(connection)
        if connection.closed:
            return
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as stream:
            stream.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Close every connection, lent ones included."""
        self._open = False
        self._idle.clear()
        for connection in list(self._all):
            await self.discard(connection)


def _ended(connection: Connection) -> bool:
    """Whether the server has ended an idle connection: nothing but its end is to be read there."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
