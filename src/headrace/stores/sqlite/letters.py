"""Dead letters in a SQLite file. They survive a loss of power: their events were acknowledged because they are here."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence

import msgspec

from headrace.engine.dead_letters import DeadLetter, Revision, Stored
from headrace.errors import HeadraceError
from headrace.stores.sqlite.file import SQLiteFile

__all__ = ["SQLiteDeadLetters"]

#: Letters that `scan` reads at a time.
PAGE = 200
_letter = msgspec.json.Decoder(DeadLetter)


class SQLiteDeadLetters:
    """See `headrace.engine.dead_letters.DeadLetterStore`."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file

    async def open(self) -> None:
        """The file is open."""

    async def put(self, letters: Sequence[DeadLetter]) -> Sequence[Exception | None]:
        rows = [
            (letter.id, letter.app, letter.handler, letter.state, letter.last_seen, msgspec.json.encode(letter))
            for letter in letters
        ]

        def work(connection: sqlite3.Connection) -> list[Exception | None]:
            results: list[Exception | None] = []
            for row in rows:
                try:
                    connection.execute("INSERT OR IGNORE INTO headrace_letters VALUES (?, ?, ?, ?, ?, 1, ?)", row)
                except (sqlite3.DataError, OverflowError) as error:
                    results.append(HeadraceError(f"store {self._file.path} cannot hold dead letter {row[0]}: {error}"))
                else:
                    results.append(None)
            return results

        return await self._file.do(work, full=True)

    async def get(self, id: str) -> Stored | None:
        row = await self._file.do(
            lambda c: c.execute("SELECT data, revision FROM headrace_letters WHERE id = ?", (id,)).fetchone()
        )
        return None if row is None else Stored(_letter.decode(row[0]), row[1])

    async def scan(self, app: str, *, handler: str | None = None) -> AsyncIterator[Stored]:
        seen, last = -1.0, ""
        while True:
            rows = await self._page(app, handler, seen, last)
            for _, _, data, revision in rows:
                yield Stored(_letter.decode(data), revision)
            if len(rows) < PAGE:
                return
            seen, last = rows[-1][:2]

    async def _page(self, app: str, handler: str | None, seen: float, last: str) -> list[tuple[float, str, bytes, int]]:
        return await self._file.do(
            lambda c: c.execute(
                "SELECT last_seen, id, data, revision FROM headrace_letters WHERE app = ?1"
                " AND (last_seen, id) > (?2, ?3) AND (?4 IS NULL OR handler = ?4) ORDER BY last_seen, id LIMIT ?5",
                (app, seen, last, handler, PAGE),
            ).fetchall()
        )

    async def replaying(self, app: str, handler: str, limit: int) -> Sequence[Stored]:
        """See `headrace.engine.stored_replays.ReplayStore`."""
        rows = await self._file.do(
            lambda c: c.execute(
                "SELECT data, revision FROM headrace_letters WHERE app = ? AND state = 'replaying' AND handler = ?"
                " ORDER BY last_seen LIMIT ?",
                (app, handler, limit),
            ).fetchall()
        )
        return [Stored(_letter.decode(data), revision) for data, revision in rows]

    async def update(self, letter: DeadLetter, revision: Revision) -> bool:
        row = (letter.state, letter.handler, letter.last_seen, msgspec.json.encode(letter), letter.id, revision)
        changed = await self._file.do(
            lambda c: (
                c.execute(
                    "UPDATE headrace_letters SET state = ?, handler = ?, last_seen = ?, data = ?, revision = revision + 1"
                    " WHERE id = ? AND revision = ?",
                    row,
                ).rowcount
            ),
            full=True,
        )
        return changed == 1

    async def counts(self, app: str) -> dict[str, tuple[int, float]]:
        rows = await self._file.do(
            lambda c: c.execute(
                "SELECT handler, count(*), min(last_seen) FROM headrace_letters"
                " WHERE app = ? AND state = 'dead' GROUP BY handler",
                (app,),
            ).fetchall()
        )
        return {handler: (count, oldest) for handler, count, oldest in rows}

    async def close(self) -> None:
        """The file is closed by its store."""
