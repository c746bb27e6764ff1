"""Dead letters in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import psycopg

from headrace.engine.dead_letters import DeadLetter, Revision, Stored
from headrace.errors import HeadraceError
from headrace.stores.postgres.pool import Connection, Pool

__all__ = ["PostgresDeadLetters"]

#: Letters that `scan` reads at a time.
PAGE = 200
_encode = msgspec.json.Encoder().encode
_letter = msgspec.json.Decoder(DeadLetter).decode

_PUT = "INSERT INTO headrace_letters VALUES (%s, %s, %s, %s, %s, 1, %b) ON CONFLICT (id) DO NOTHING"
_PAGE = (
    "SELECT last_seen, id, data, revision FROM headrace_letters WHERE app = %(app)s AND (last_seen, id) > (%(seen)s, %(id)s)"
    " AND (%(handler)s::text IS NULL OR handler = %(handler)s) ORDER BY last_seen, id LIMIT %(limit)s"
)


class PostgresDeadLetters:
    """See `headrace.engine.dead_letters.DeadLetterStore`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def open(self) -> None:
        """The store is open."""

    async def put(self, letters: Sequence[DeadLetter]) -> Sequence[Exception | None]:
        rows: list[tuple[Any, ...]] = [
            (letter.id, letter.app, letter.handler, letter.state, letter.last_seen, _encode(letter))
            for letter in letters
        ]

        async def together(connection: Connection) -> list[Exception | None]:
            async with connection.transaction(), connection.cursor() as cursor:
                await cursor.executemany(_PUT, rows)
            return [None] * len(rows)

        try:
            return await self._pool.call(together)
        except psycopg.Error:
            return [await self._put_alone(row) for row in rows]

    async def _put_alone(self, row: tuple[Any, ...]) -> Exception | None:
        """One letter of a batch that was refused: the others are not to suffer for it."""
        try:
            await self._pool.fetch(_PUT, row)
        except psycopg.Error as error:
            return HeadraceError(f"store {self._pool.url} cannot hold dead letter {row[0]}: {str(error).strip()}")
        return None

    async def get(self, id: str) -> Stored | None:
        rows = await self._pool.fetch("SELECT data, revision FROM headrace_letters WHERE id = %s", (id,))
        return Stored(_letter(rows[0][0]), rows[0][1]) if rows else None

    async def scan(self, app: str, *, handler: str | None = None) -> AsyncIterator[Stored]:
        seen, last = -1.0, ""
        while True:
            page = {"app": app, "seen": seen, "id": last, "handler": handler, "limit": PAGE}
            rows = await self._pool.fetch(_PAGE, page)
            for _, _, data, revision in rows:
                yield Stored(_letter(data), revision)
            if len(rows) < PAGE:
                return
            seen, last = rows[-1][:2]

    async def update(self, letter: DeadLetter, revision: Revision) -> bool:
        rows = await self._pool.fetch(
            "UPDATE headrace_letters SET state = %s, handler = %s, last_seen = %s, data = %b, revision = revision + 1"
            " WHERE id = %s AND revision = %s RETURNING 1",
            (letter.state, letter.handler, letter.last_seen, _encode(letter), letter.id, revision),
        )
        return bool(rows)

    async def counts(self, app: str) -> dict[str, tuple[int, float]]:
        rows = await self._pool.fetch(
            "SELECT handler, count(*), min(last_seen) FROM headrace_letters WHERE app = %s AND state = 'dead' GROUP BY handler",
            (app,),
        )
        return {handler: (count, oldest) for handler, count, oldest in rows}

    async def close(self) -> None:
        """The pool is closed by its store."""
