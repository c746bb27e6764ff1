"""Transactional handlers on a SQLite file: one at a time, with the ledger in that file; and their outbox."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.engine.ledger import Identity
from headrace.engine.transactions import Transaction
from headrace.errors import HeadraceError, StoreUnavailable
from headrace.stores.sqlite.file import Session, SQLiteFile
from headrace.stores.sqlite.ledger import SQLiteLedger, finish, json_keys, owned

__all__ = ["SQLiteOutbox", "SQLiteTransaction", "SQLiteTransactions"]


class SQLiteTransaction(Transaction):
    """See `headrace.engine.transactions.Transaction`. Placeholders are ``?`` and ``:name``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        def work(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            rows = connection.execute(sql, parameters).fetchall()
            if not connection.in_transaction:
                raise HeadraceError(
                    f"{sql.strip()[:60]!r} ended the handler's transaction; it commits when the handler returns, leave "
                    "out COMMIT and ROLLBACK"
                )
            return rows

        return await self._session.do(work)


class SQLiteUnit:
    """See `headrace.engine.transactions.Unit`."""

    def __init__(self, session: Session, file: SQLiteFile, ledger: SQLiteLedger, app: str) -> None:
        self.parameter = SQLiteTransaction(session)
        self._session = session
        self._file = file
        self._ledger = ledger
        self._app = app

    async def commit(self, handler: str, identity: Identity | None, outgoing: Sequence[bytes]) -> bool:
        held = self._ledger.held(handler)
        if identity is not None and identity not in held:
            await self._session.rollback()
            return False
        scope, token, now = self._ledger.scope(handler), self._file.token, time.time()
        keys = json_keys([] if identity is None else [identity])
        rows = [(self._app, handler, "", data, now) for data in outgoing]

        def work(connection: sqlite3.Connection) -> bool:
            if not owned(connection, token):
                return False
            if identity is not None:
                finish(connection, scope, keys, "done", now)
            connection.executemany(
                "INSERT INTO headrace_outbox (app, handler, destination, data, at) VALUES (?, ?, ?, ?, ?)", rows
            )
            return True

        done = await self._session.commit(work)
        if identity is not None:
            held.discard(identity)
        return done

    async def rollback(self) -> None:
        self._session.abandon()


class SQLiteTransactions:
    """See `headrace.engine.transactions.Transactions`."""

    def __init__(self, file: SQLiteFile, ledger: SQLiteLedger, app: str) -> None:
        self._file = file
        self._ledger = ledger
        self._app = app

    def check(self, annotation: Any) -> str:
        if annotation is Transaction:
            return ""
        return f"it cannot give a {annotation.__module__}.{annotation.__qualname__}; take a headrace.stores.Transaction"

    async def begin(self, annotation: Any) -> SQLiteUnit:
        return SQLiteUnit(await self._file.session(), self._file, self._ledger, self._app)

    def outage(self, error: BaseException) -> StoreUnavailable | None:
        return error if isinstance(error, StoreUnavailable) else None


class SQLiteOutbox:
    """See `headrace.engine.transactions.Outbox`. The file has one worker, so its relay is here."""

    def __init__(self, file: SQLiteFile, app: str) -> None:
        self._file = file
        self._app = app
        self._news = asyncio.Event()

    async def acquire(self) -> bool:
        return True

    async def pending(self, limit: int) -> Sequence[tuple[int, bytes]]:
        self._news.clear()
        return await self._file.do(
            lambda c: c.execute(
                "SELECT number, data FROM headrace_outbox WHERE app = ? AND refused IS NULL ORDER BY number LIMIT ?",
                (self._app, limit),
            ).fetchall()
        )

    async def remove(self, numbers: Sequence[int]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM headrace_outbox WHERE number = ?", [(number,) for number in numbers])

        await self._file.do(work)

    async def refuse(self, number: int, reason: str) -> None:
        await self._file.do(
            lambda c: (
                c.execute("UPDATE headrace_outbox SET refused = ? WHERE number = ?", (reason[:500], number)) and None
            )
        )

    def committed(self) -> None:
        self._news.set()

    async def wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        """The file is closed by its store."""
