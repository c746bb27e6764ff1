"""Ledger, dead letters, checkpoints and suspects in one SQLite file.

A file has one worker at a time (its lock proves a dead owner at once), so a claim lives in the owner's memory and needs no
row: a row exists for what is finished, and for attempts that failed. Marks are kept for the retention.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import msgspec

from headrace.engine.dead_letters import DeadLetter, Revision, Stored
from headrace.engine.ledger import CLAIMED, Attempts, Claim, Identity, Owner
from headrace.stores.sqlite_file import SQLiteFile

__all__ = ["RETENTION", "SQLiteCheckpoints", "SQLiteDeadLetters", "SQLiteLedger", "SQLiteSuspects"]

#: Seconds that a mark is kept (7 days), seconds between sweeps, and rows that one sweep removes.
RETENTION = 7 * 86400.0
SWEEP_EVERY = 60.0
SWEEP_ROWS = 5_000

_OURS = Claim("ours")
_FINISHED = {state: Claim(state) for state in ("done", "dead", "dropped")}
_attempts = msgspec.json.Decoder(Attempts)
_letter = msgspec.json.Decoder(DeadLetter)


def _keys(identities: Iterable[Identity]) -> str:
    return msgspec.json.encode(list(identities)).decode()


class SQLiteLedger:
    """See `headrace.engine.ledger.Ledger`. ``retention`` in seconds."""

    durable = True

    def __init__(self, file: SQLiteFile, app: str, *, retention: float = RETENTION) -> None:
        self._file = file
        self._app = app
        self._retention = retention
        self._claims: dict[str, set[Identity]] = {}
        self._swept = 0.0

    async def open(self, owner: Owner) -> None:
        """The file is open: its lock is the lease."""

    def _scope(self, handler: str) -> str:
        return f"{self._app}__{handler}"

    async def claim(self, handler: str, identities: Sequence[Identity]) -> Sequence[Claim]:
        claims = self._claims.setdefault(handler, set())
        scope, keys = self._scope(handler), _keys(identities)
        taken: list[Identity] = []
        answers: list[Claim] = []
        for identity in identities:
            if identity in claims:
                answers.append(_OURS)
            else:
                claims.add(identity)
                taken.append(identity)
                answers.append(CLAIMED)

        def work(connection: sqlite3.Connection) -> tuple[list[tuple[int, str]], list[tuple[int, bytes]]]:
            finished = connection.execute(
                "SELECT j.key, m.state FROM json_each(?1) j CROSS JOIN marks m"
                " ON m.scope = ?2 AND m.source = j.value ->> 0 AND m.id = j.value ->> 1",
                (keys, scope),
            ).fetchall()
            failed = connection.execute(
                "SELECT j.key, a.data FROM json_each(?1) j CROSS JOIN attempts a"
                " ON a.scope = ?2 AND a.source = j.value ->> 0 AND a.id = j.value ->> 1",
                (keys, scope),
            ).fetchall()
            return finished, failed

        try:
            finished, failed = await self._file.do(work)
        except BaseException:
            claims.difference_update(taken)
            raise
        for index, state in finished:
            if answers[index] is not _OURS:
                claims.discard(identities[index])
            answers[index] = _FINISHED[state]
        for index, data in failed:
            if answers[index] is CLAIMED:
                answers[index] = Claim("claimed", _attempts.decode(data))
        return answers

    async def mark(self, handler: str, identities: Sequence[Identity], state: str) -> Sequence[bool]:
        claims = self._claims.setdefault(handler, set())
        held = [identity in claims for identity in identities]
        scope, now = self._scope(handler), time.time()
        rows = [(scope, source, id, state, now) for (source, id), ours in zip(identities, held, strict=True) if ours]
        sweep = now - self._swept > SWEEP_EVERY
        if sweep:
            self._swept = now

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?)", rows)
            if connection.execute("SELECT 1 FROM attempts LIMIT 1").fetchone():
                connection.executemany(
                    "DELETE FROM attempts WHERE scope = ? AND source = ? AND id = ?", [row[:3] for row in rows]
                )
            if sweep:
                old = now - self._retention
                connection.execute(
                    "DELETE FROM marks WHERE (scope, source, id) IN"
                    " (SELECT scope, source, id FROM marks WHERE at < ? ORDER BY at LIMIT ?)",
                    (old, SWEEP_ROWS),
                )
                connection.execute("DELETE FROM attempts WHERE at < ?", (old,))

        if rows:
            await self._file.do(work)
        claims.difference_update(identities)
        return held

    async def record(self, handler: str, attempts: Sequence[tuple[Identity, Attempts]]) -> None:
        scope, now = self._scope(handler), time.time()
        rows = [(scope, source, id, msgspec.json.encode(failed), now) for (source, id), failed in attempts]
        await self._file.do(lambda c: c.executemany("INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?)", rows))

    async def release(self, handler: str, identities: Sequence[Identity]) -> None:
        self._claims.setdefault(handler, set()).difference_update(identities)

    async def forget(self, handler: str, identities: Sequence[Identity]) -> None:
        rows = [(self._scope(handler), source, id) for source, id in identities]

        def work(connection: sqlite3.Connection) -> None:
            for table in ("marks", "attempts"):
                connection.executemany(f"DELETE FROM {table} WHERE scope = ? AND source = ? AND id = ?", rows)

        await self._file.do(work)

    async def close(self) -> None:
        """Claims end with their owner."""
        self._claims.clear()


class SQLiteDeadLetters:
    """See `headrace.engine.dead_letters.DeadLetterStore`. Letters survive a loss of power."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file

    async def open(self) -> None:
        """The file is open."""

    async def put(self, letters: Sequence[DeadLetter]) -> Sequence[Exception | None]:
        rows = [
            (letter.id, letter.app, letter.handler, letter.state, letter.last_seen, msgspec.json.encode(letter))
            for letter in letters
        ]
        await self._file.do(
            lambda c: c.executemany("INSERT OR IGNORE INTO letters VALUES (?, ?, ?, ?, ?, 1, ?)", rows), full=True
        )
        return [None] * len(letters)

    async def get(self, id: str) -> Stored | None:
        row = await self._file.do(
            lambda c: c.execute("SELECT data, revision FROM letters WHERE id = ?", (id,)).fetchone()
        )
        return None if row is None else Stored(_letter.decode(row[0]), row[1])

    async def scan(self, app: str, *, handler: str | None = None) -> AsyncIterator[Stored]:
        after: tuple[float, str] = (-1.0, "")
        while True:
            seen, last = after
            rows = await self._file.do(
                lambda c, seen=seen, last=last: c.execute(  # type: ignore[misc]
                    "SELECT last_seen, id, data, revision FROM letters WHERE app = ? AND (? IS NULL OR handler = ?)"
                    " AND (last_seen, id) > (?, ?) ORDER BY last_seen, id LIMIT 500",
                    (app, handler, handler, seen, last),
                ).fetchall()
            )
            for row in rows:
                yield Stored(_letter.decode(row[2]), row[3])
            if len(rows) < 500:
                return
            after = (rows[-1][0], rows[-1][1])

    async def update(self, letter: DeadLetter, revision: Revision) -> bool:
        data = msgspec.json.encode(letter)
        changed = await self._file.do(
            lambda c: (
                c.execute(
                    "UPDATE letters SET state = ?, data = ?, revision = revision + 1 WHERE id = ? AND revision = ?",
                    (letter.state, data, letter.id, revision),
                ).rowcount
            ),
            full=True,
        )
        return changed == 1

    async def counts(self, app: str) -> dict[str, tuple[int, float]]:
        rows = await self._file.do(
            lambda c: c.execute(
                "SELECT handler, count(*), min(last_seen) FROM letters WHERE app = ? AND state = 'dead' GROUP BY handler",
                (app,),
            ).fetchall()
        )
        return {handler: (count, oldest) for handler, count, oldest in rows}

    async def close(self) -> None:
        """The file is closed by its store."""


class SQLiteCheckpoints:
    """See `headrace.engine.checkpoints.Checkpoints`."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file

    async def load(self, scope: str) -> Mapping[str, bytes]:
        rows = await self._file.do(
            lambda c: c.execute("SELECT name, value FROM checkpoints WHERE scope = ?", (scope,)).fetchall()
        )
        return dict(rows)

    async def save(self, scope: str, changes: Mapping[str, bytes | None]) -> None:
        kept = [(scope, name, value) for name, value in changes.items() if value is not None]
        gone = [(scope, name) for name, value in changes.items() if value is None]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)", kept)
            connection.executemany("DELETE FROM checkpoints WHERE scope = ? AND name = ?", gone)

        await self._file.do(work)


class SQLiteSuspects:
    """See `headrace.engine.checkpoints.Suspects`."""

    def __init__(self, file: SQLiteFile, app: str) -> None:
        self._file = file
        self._app = app

    async def begin(self, app: str, process: str) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            unclean = connection.execute("DELETE FROM processes WHERE app = ?", (app,)).rowcount > 0
            connection.execute("INSERT INTO processes VALUES (?, ?)", (app, process))
            return unclean

        return await self._file.do(work)

    async def started(self, handler: str, identities: Sequence[Identity]) -> Sequence[int]:
        scope = f"{self._app}__{handler}"

        def work(connection: sqlite3.Connection) -> list[int]:
            return [
                connection.execute(
                    "INSERT INTO starts VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1 RETURNING count",
                    (scope, source, id),
                ).fetchone()[0]
                for source, id in identities
            ]

        return await self._file.do(work)

    async def finished(self, handler: str, identities: Sequence[Identity]) -> None:
        rows = [(f"{self._app}__{handler}", source, id) for source, id in identities]
        await self._file.do(
            lambda c: c.executemany("DELETE FROM starts WHERE scope = ? AND source = ? AND id = ?", rows)
        )

    async def end(self, app: str, process: str) -> None:
        await self._file.do(lambda c: c.execute("DELETE FROM processes WHERE app = ? AND id = ?", (app, process)))
