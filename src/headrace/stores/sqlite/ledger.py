"""The ledger in a SQLite file.

The file has one worker at a time, so a claim lives in its owner's memory and needs no row: rows exist for what is finished,
and for attempts that failed. Each call is one statement over a JSON array: a step of SQLite gives the interpreter up, and
thousands of them a second would fight the event loop for it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

import msgspec

from headrace.engine.ledger import CLAIMED, Attempts, Claim, Identity, Owner
from headrace.errors import RefusedError
from headrace.stores.sqlite.file import SQLiteFile

__all__ = ["RETENTION", "SQLiteLedger", "finish", "json_keys", "owned"]

#: Seconds that a mark is kept (7 days), seconds between sweeps, and rows that one sweep removes.
RETENTION = 7 * 86400.0
SWEEP_EVERY = 60.0
SWEEP_ROWS = 1_000

_OURS = Claim("ours")
_FINISHED = {state: Claim(state) for state in ("done", "dead", "dropped")}
_attempts = msgspec.json.Decoder(Attempts)

_SOURCE, _ID = "json_extract(j.value, '$[0]')", "json_extract(j.value, '$[1]')"
_SAME = f"t.scope = ?2 AND t.source = {_SOURCE} AND t.id = {_ID}"
_LOOK_UP = f"SELECT j.key, t.state FROM json_each(?1) j CROSS JOIN headrace_marks t WHERE {_SAME}"
_HISTORY = f"SELECT j.key, t.data FROM json_each(?1) j CROSS JOIN headrace_attempts t WHERE {_SAME}"
_MARK = f"INSERT OR REPLACE INTO headrace_marks SELECT ?2, {_SOURCE}, {_ID}, ?3, ?4 FROM json_each(?1) j"
_REMOVE = (
    "DELETE FROM {table} WHERE scope = ?2 AND (source, id) IN (SELECT " + f"{_SOURCE}, {_ID}" + " FROM json_each(?1) j)"
)
_FORGET_MARKS = _REMOVE.format(table="headrace_marks")
_FORGET_ATTEMPTS = _REMOVE.format(table="headrace_attempts")
_SWEEP = (
    "DELETE FROM headrace_marks WHERE (scope, source, id) IN"
    " (SELECT scope, source, id FROM headrace_marks WHERE at < ? ORDER BY at LIMIT ?)"
)


def json_keys(identities: Sequence[Identity]) -> str:
    """Identities for ``json_each``. SQLite ends a JSON string at U+0000, which would make two ids one: it is escaped."""
    text = msgspec.json.encode(identities).decode()
    if "\\u0000" in text or "\\u0001" in text:
        escaped = [[part.replace("\1", "\1\1").replace("\0", "\1\2") for part in identity] for identity in identities]
        text = msgspec.json.encode(escaped).decode()
    return text


def owned(connection: sqlite3.Connection, token: int) -> bool:
    """Whether the file still has this owner."""
    return bool(connection.execute("SELECT token FROM headrace_owner").fetchone() == (token,))


def finish(connection: sqlite3.Connection, scope: str, keys: str, state: str, now: float) -> None:
    """Write marks and forget what was recorded of the attempts."""
    connection.execute(_MARK, (keys, scope, state, now))
    if connection.execute("SELECT 1 FROM headrace_attempts LIMIT 1").fetchone():
        connection.execute(_FORGET_ATTEMPTS, (keys, scope))


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

    def scope(self, handler: str) -> str:
        """The first part of every key."""
        return f"{self._app}__{handler}"

    def held(self, handler: str) -> set[Identity]:
        """What this owner has claimed and not finished."""
        return self._claims.setdefault(handler, set())

    async def claim(self, handler: str, identities: Sequence[Identity]) -> Sequence[Claim]:
        claims = self.held(handler)
        scope, keys, token = self.scope(handler), json_keys(identities), self._file.token
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
            if not owned(connection, token):
                raise RefusedError(
                    f"store {self._file.path}: another worker has taken this file over (was its .lock file removed?); "
                    "this one stops"
                )
            finished = connection.execute(_LOOK_UP, (keys, scope)).fetchall()
            if not connection.execute("SELECT 1 FROM headrace_attempts LIMIT 1").fetchone():
                return finished, []
            return finished, connection.execute(_HISTORY, (keys, scope)).fetchall()

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
        claims = self.held(handler)
        held = [identity in claims for identity in identities]
        keys = json_keys([identity for identity, ours in zip(identities, held, strict=True) if ours])
        scope, now, token = self.scope(handler), time.time(), self._file.token
        sweep = now - self._swept > SWEEP_EVERY
        old = now - self._retention

        def work(connection: sqlite3.Connection) -> tuple[bool, bool]:
            if not owned(connection, token):
                return False, False
            finish(connection, scope, keys, state, now)
            if not sweep:
                return True, False
            connection.execute("DELETE FROM headrace_attempts WHERE at < ?", (old,))
            return True, connection.execute(_SWEEP, (old, SWEEP_ROWS)).rowcount == SWEEP_ROWS

        if not any(held):
            return held
        ours, more = await self._file.do(work)
        if sweep and not more:
            self._swept = now
        claims.difference_update(identities)
        return held if ours else [False] * len(held)

    async def record(self, handler: str, attempts: Sequence[tuple[Identity, Attempts]]) -> None:
        scope, now = self.scope(handler), time.time()
        keys = [(scope, *identity) for identity in _stored([identity for identity, _ in attempts])]
        rows = [(*key, msgspec.json.encode(failed), now) for key, (_, failed) in zip(keys, attempts, strict=True)]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO headrace_attempts VALUES (?, ?, ?, ?, ?)", rows)

        await self._file.do(work)

    async def release(self, handler: str, identities: Sequence[Identity]) -> None:
        self.held(handler).difference_update(identities)

    async def forget(self, handler: str, identities: Sequence[Identity]) -> None:
        scope, keys = self.scope(handler), json_keys(identities)

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_FORGET_MARKS, (keys, scope))
            connection.execute(_FORGET_ATTEMPTS, (keys, scope))

        await self._file.do(work)

    async def close(self) -> None:
        """Claims end with their owner."""
        self._claims.clear()


def _stored(identities: Sequence[Identity]) -> list[list[str]]:
    """Identities as `json_keys` has SQLite read them."""
    decoded: list[list[str]] = msgspec.json.decode(json_keys(identities))
    return decoded
