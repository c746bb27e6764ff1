"""Checkpoints and suspects in a SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from headrace.engine.ledger import Identity
from headrace.stores.sqlite.file import SQLiteFile

__all__ = ["SQLiteCheckpoints", "SQLiteSuspects"]


class SQLiteCheckpoints:
    """See `headrace.engine.checkpoints.Checkpoints`. After a loss of power it may be an older one: events come again."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file

    async def load(self, scope: str) -> Mapping[str, bytes]:
        rows = await self._file.do(
            lambda c: c.execute("SELECT name, value FROM headrace_checkpoints WHERE scope = ?", (scope,)).fetchall()
        )
        return dict(rows)

    async def save(self, scope: str, changes: Mapping[str, bytes | None]) -> None:
        kept = [(scope, name, value) for name, value in changes.items() if value is not None]
        gone = [(scope, name) for name, value in changes.items() if value is None]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO headrace_checkpoints VALUES (?, ?, ?)", kept)
            connection.executemany("DELETE FROM headrace_checkpoints WHERE scope = ? AND name = ?", gone)

        await self._file.do(work)


class SQLiteSuspects:
    """See `headrace.engine.checkpoints.Suspects`. A file has one worker, so any process on record has died."""

    def __init__(self, file: SQLiteFile, app: str) -> None:
        self._file = file
        self._app = app

    async def begin(self, app: str, process: str) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            unclean = connection.execute("DELETE FROM headrace_processes WHERE app = ?", (app,)).rowcount > 0
            connection.execute("INSERT INTO headrace_processes VALUES (?, ?)", (app, process))
            return unclean

        return await self._file.do(work)

    async def recorded(self, handler: str, identities: Sequence[Identity]) -> Sequence[int]:
        keys = [(f"{self._app}__{handler}", *identity) for identity in identities]

        def work(connection: sqlite3.Connection) -> list[int]:
            counts = []
            for key in keys:
                found = connection.execute(
                    "SELECT count FROM headrace_starts WHERE scope = ? AND source = ? AND id = ?", key
                ).fetchone()
                counts.append(0 if found is None else found[0])
            return counts

        return await self._file.do(work)

    async def started(self, handler: str, identities: Sequence[Identity]) -> Sequence[int]:
        keys = [(f"{self._app}__{handler}", *identity) for identity in identities]

        def work(connection: sqlite3.Connection) -> list[int]:
            counts = []
            for key in keys:
                connection.execute(
                    "INSERT INTO headrace_starts VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1", key
                )
                (count,) = connection.execute(
                    "SELECT count FROM headrace_starts WHERE scope = ? AND source = ? AND id = ?", key
                ).fetchone()
                counts.append(count)
            return counts

        return await self._file.do(work)

    async def finished(self, handler: str, identities: Sequence[Identity]) -> None:
        keys = [(f"{self._app}__{handler}", *identity) for identity in identities]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM headrace_starts WHERE scope = ? AND source = ? AND id = ?", keys)

        await self._file.do(work)

    async def end(self, app: str, process: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM headrace_processes WHERE app = ? AND id = ?", (app, process))

        await self._file.do(work)
