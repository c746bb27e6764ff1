"""Transactional handlers on PostgreSQL.

The claim was made before, in a transaction of its own; the mark is the last statement but the commit, and both are sent
together, so that a process which stops in between holds no lock that others wait for. The mark is its own fence: where it
finds no claim of this owner it divides by zero, and nothing is committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus

from headrace.engine.ledger import Identity
from headrace.engine.transactions import Transaction
from headrace.errors import HeadraceError, StoreUnavailable
from headrace.stores.postgres.ledger import PostgresLedger
from headrace.stores.postgres.pool import Connection, Pool, unavailable
from headrace.stores.postgres.wire import Statement
from headrace.stores.shared import digests

__all__ = ["PostgresTransaction", "PostgresTransactions"]

_MARK: Final = (
    b"WITH marked AS (UPDATE headrace_ledger SET state = 1, at = clock_timestamp(), attempts = NULL"
    b" WHERE key = $1 AND token = $2::int8 AND state = 0 RETURNING 1) SELECT 1 / count(*) FROM marked"
)
_LOOK: Final = "SELECT 1 FROM headrace_ledger WHERE key = %b AND token = %b AND state = 1"
_STAGE: Final = b"INSERT INTO headrace_outbox (app, data) VALUES ($1, $2)"
_BEGIN: Final[Statement] = (b"BEGIN", ())
_COMMIT: Final[Statement] = (b"COMMIT", ())


class PostgresTransaction(Transaction):
    """See `headrace.engine.transactions.Transaction`. Placeholders are ``%s`` and ``%(name)s``."""

    def __init__(self, pool: Pool, connection: Connection) -> None:
        self._pool = pool
        self._connection = connection
        self.begun = False

    async def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        connection = self._connection

        async def work() -> list[tuple[Any, ...]]:
            if not self.begun:
                self.begun = True
                await connection.together((_BEGIN,))
            cursor = await connection.execute(sql, parameters or None)
            return await cursor.fetchall() if cursor.description is not None else []

        rows = await self._pool.within(connection, work(), None)
        if connection.info.transaction_status == TransactionStatus.IDLE:
            raise HeadraceError(
                f"{sql.strip()[:60]!r} ended the handler's transaction; it commits when the handler returns, leave out "
                "COMMIT and ROLLBACK"
            )
        return rows


class PostgresUnit:
    """See `headrace.engine.transactions.Unit`. ``lent`` keeps the connection until the end; ``block`` is psycopg's
    transaction block around a connection that the handler has in its own hands, so that it cannot commit by itself."""

    def __init__(
        self,
        pool: Pool,
        ledger: PostgresLedger,
        connection: Connection,
        lent: AbstractAsyncContextManager[Connection],
        block: AbstractAsyncContextManager[Any] | None,
    ) -> None:
        self.parameter: Any = connection if block is not None else PostgresTransaction(pool, connection)
        self._pool = pool
        self._ledger = ledger
        self._connection = connection
        self._lent = lent
        self._block = block

    async def commit(self, handler: str, identity: Identity | None, outgoing: Sequence[bytes]) -> bool:
        ledger = self._ledger
        key = b"" if identity is None else digests(ledger.scope(handler), [identity])[0]
        error: BaseException | None = None
        try:
            good = await self._pool.within(self._connection, self._finish(key, outgoing), None)
        except BaseException as raised:
            error = raised
            raise
        finally:
            await self._lent.__aexit__(None if error is None else type(error), error, None)
            if identity is not None and not isinstance(error, StoreUnavailable):
                ledger.ended(handler, identity)
        return good

    async def _finish(self, key: bytes, outgoing: Sequence[bytes]) -> bool:
        connection = self._connection
        try:
            if self._block is None:
                await self._statements(key, outgoing, begin=not self.parameter.begun, commit=True)
            else:
                await self._statements(key, outgoing, begin=False, commit=False)
                await self._block.__aexit__(None, None, None)
        except psycopg.errors.DivisionByZero:
            await self._undo()
            cursor = await connection.execute(_LOOK, (key, self._ledger.token))
            return await cursor.fetchone() is not None
        except psycopg.Error:
            if not connection.closed:
                await self._undo()
            raise
        return True

    async def _statements(self, key: bytes, outgoing: Sequence[bytes], *, begin: bool, commit: bool) -> None:
        statements: list[Statement] = []
        if begin:
            statements.append(_BEGIN)
        if outgoing:
            app = self._ledger.app.encode()
            statements += [(_STAGE, (app, row)) for row in outgoing]
        if key:
            statements.append((_MARK, (key, self._ledger.token.to_bytes(8, "big", signed=True))))
        if commit:
            statements.append(_COMMIT)
        if statements:
            await self._connection.together(statements)

    async def _undo(self) -> None:
        if self._block is not None:
            undone = _Undone()
            try:
                await self._block.__aexit__(_Undone, undone, None)
            except _Undone:
                return
        elif self._connection.info.transaction_status != TransactionStatus.IDLE:
            await self._connection.execute("ROLLBACK")

    async def rollback(self) -> None:
        connection = self._connection
        if connection.info.transaction_status == TransactionStatus.ACTIVE:
            self._pool.cut(connection)
        error: BaseException | None = None
        try:
            if not connection.closed:
                await self._pool.within(connection, self._undo())
        except (psycopg.Error, StoreUnavailable) as raised:
            # The server undoes what it does not see committed.
            self._pool.cut(connection)
            error = raised
        try:
            await self._lent.__aexit__(None if error is None else type(error), error, None)
        except (psycopg.Error, StoreUnavailable):
            return


class _Undone(Exception):
    """Thrown into a transaction block to have it rolled back."""


class PostgresTransactions:
    """See `headrace.engine.transactions.Transactions`."""

    def __init__(self, pool: Pool, ledger: PostgresLedger) -> None:
        self._pool = pool
        self._ledger = ledger

    def check(self, annotation: Any) -> str:
        if annotation is Transaction or annotation is psycopg.AsyncConnection:
            return ""
        return f"it cannot give a {annotation.__module__}.{annotation.__qualname__}"

    async def begin(self, annotation: Any) -> PostgresUnit:
        lent = self._pool.connection(transaction=True)
        connection = await lent.__aenter__()
        if annotation is Transaction:
            return PostgresUnit(self._pool, self._ledger, connection, lent, None)
        block = connection.transaction()
        try:
            await self._pool.within(connection, block.__aenter__())
        except BaseException as error:
            await lent.__aexit__(type(error), error, None)
            raise
        return PostgresUnit(self._pool, self._ledger, connection, lent, block)

    def outage(self, error: BaseException) -> StoreUnavailable | None:
        return error if isinstance(error, StoreUnavailable) else unavailable(error, self._pool.url)
