"""The ledger in PostgreSQL: one row an event, claimed by an upsert and finished by an update.

A claim names its owner's token; the owner's row holds the lease. A claim whose owner's lease has run out may be taken, and a
mark is refused where the row no longer has this owner's token: that is the fence. Keys are sorted, so that two owners that
want the same events never wait for each other crosswise.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from headrace.engine.ledger import Attempts, Owner
from headrace.stores.postgres.pool import Connection, Pool
from headrace.stores.shared import SharedLedger

__all__ = ["STATES", "SWEEP_BLOCKS", "PostgresLedger"]

#: How the table spells a state.
STATES: Final = {"done": 1, "dead": 2, "dropped": 3}
_NAMES: Final = {1: "done", 2: "dead", 3: "dropped"}
#: Pages (8 KiB) that one sweep reads, and seconds to rest when the whole table has been walked.
SWEEP_BLOCKS: Final = 512
SWEEP_REST: Final = 60.0

_BEGIN = (
    "INSERT INTO headrace_owners (app, id, pid, host, expires)"
    " VALUES (%s, %s, %s, %s, clock_timestamp() + make_interval(secs => %s)) RETURNING token"
)
_RENEW = (
    "INSERT INTO headrace_owners (token, app, id, pid, host, expires) OVERRIDING SYSTEM VALUE"
    " VALUES (%s, %s, %s, %s, %s, clock_timestamp() + make_interval(secs => %s))"
    " ON CONFLICT (token) DO UPDATE SET expires = excluded.expires"
)
#: Rows of processes that died long ago; their claims are free without them.
_BURY = "DELETE FROM headrace_owners WHERE expires < clock_timestamp() - interval '1 day'"
_LIVE = "EXISTS (SELECT FROM headrace_owners o WHERE o.token = l.token AND o.expires > clock_timestamp())"
_CLAIM = (
    "INSERT INTO headrace_ledger AS l (key, token, at, state) SELECT k, %b, clock_timestamp(), 0 FROM unnest(%b::bytea[]) k"
    " ON CONFLICT (key) DO UPDATE SET token = excluded.token, at = excluded.at, state = 0"
    f" WHERE l.state = 4 OR l.state = 0 AND (l.token = excluded.token OR NOT {_LIVE})"
    " RETURNING key, attempts"
)
_LOOK = "SELECT key, state FROM headrace_ledger WHERE key = ANY(%b::bytea[])"
_MARK = (
    "UPDATE headrace_ledger SET state = %b::int2, at = clock_timestamp(), attempts = NULL"
    " WHERE key = ANY(%b::bytea[]) AND token = %b AND state <> 4"
)
_RECORD = (
    "UPDATE headrace_ledger l SET attempts = n.attempts FROM unnest(%b::bytea[], %b::bytea[]) n (key, attempts)"
    " WHERE l.key = n.key AND l.token = %b AND l.state = 0"
)
_RELEASE = (
    "WITH kept AS (UPDATE headrace_ledger SET state = 4 WHERE key = ANY(%(keys)b::bytea[]) AND token = %(token)b AND state = 0"
    " AND attempts IS NOT NULL)"
    " DELETE FROM headrace_ledger WHERE key = ANY(%(keys)b::bytea[]) AND token = %(token)b AND state = 0 AND attempts IS NULL"
)
_FORGET = (
    "WITH cleared AS (UPDATE headrace_ledger SET attempts = NULL WHERE key = ANY(%(keys)b::bytea[]) AND state = 0)"
    " DELETE FROM headrace_ledger WHERE key = ANY(%(keys)b::bytea[]) AND state <> 0"
)
#: A stretch of the table's pages. Nobody needs an index by time, which every mark would have to write.
_SWEEP = (
    "DELETE FROM headrace_ledger l WHERE ctid >= format('(%%s,0)', %(from)s::bigint)::tid"
    " AND ctid < format('(%%s,0)', %(to)s::bigint)::tid"
    f" AND at < clock_timestamp() - make_interval(secs => %(age)s) AND (state <> 0 OR NOT {_LIVE})"
)
_PAGES = "SELECT pg_relation_size('headrace_ledger') / current_setting('block_size')::bigint"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Attempts).decode


class PostgresLedger(SharedLedger):
    """See `headrace.engine.ledger.Ledger` and `headrace.stores.shared.SharedLedger`. ``token``: this owner's."""

    def __init__(self, pool: Pool, app: str, *, beside: bool = False) -> None:
        super().__init__(app, beside=beside)
        self.token = 0
        self._pool = pool
        self._owner: Owner | None = None
        self._page = 0
        self._rest_until = 0.0

    async def _begin_lease(self, owner: Owner) -> None:
        self._owner = owner
        ((self.token,),) = await self._pool.fetch(_BEGIN, (owner.app, owner.id, owner.pid, owner.host, self.lease))

    async def _renew_lease(self) -> None:
        assert self._owner is not None
        app, id, pid, host = self._owner
        await self._pool.fetch(_RENEW, (self.token, app, id, pid, host, self.lease))
        await self.sweep()

    async def _end_lease(self) -> None:
        await self._pool.fetch("DELETE FROM headrace_owners WHERE token = %s", (self.token,))

    async def sweep(self) -> None:
        """Delete what is older than the retention from the next stretch of the table."""
        if time.monotonic() < self._rest_until:
            return
        await self._pool.fetch(_BURY)
        ((pages,),) = await self._pool.fetch(_PAGES)
        start, end = self._page, self._page + SWEEP_BLOCKS
        await self._pool.fetch(_SWEEP, {"from": start, "to": end, "age": self.retention})
        self._page = end
        if end >= pages:
            self._page = 0
            self._rest_until = time.monotonic() + SWEEP_REST

    async def _claim(self, keys: list[bytes]) -> dict[int, tuple[str, Attempts | None]]:
        places = {key: index for index, key in enumerate(keys)}
        ordered = sorted(keys)

        async def work(connection: Connection) -> tuple[list[tuple[bytes, bytes | None]], list[tuple[bytes, int]]]:
            cursor = await connection.execute(_CLAIM, (self.token, ordered), binary=True)
            taken = await cursor.fetchall()
            if len(taken) == len(ordered):
                return taken, []
            # A statement of its own, which sees what others had committed when the upsert met it.
            got = {key for key, _ in taken}
            cursor = await connection.execute(_LOOK, ([key for key in ordered if key not in got],), binary=True)
            return taken, await cursor.fetchall()

        taken, others = await self._pool.call(work)
        answers: dict[int, tuple[str, Attempts | None]] = {
            places[key]: ("claimed", _decode(attempts)) for key, attempts in taken if attempts is not None
        }
        if len(taken) < len(keys):
            for key in places.keys() - {key for key, _ in taken}:
                answers[places[key]] = ("busy", None)
            for key, state in others:
                answers[places[key]] = (_NAMES.get(state, "busy"), None)
        return answers

    async def _mark(self, keys: list[bytes], state: str) -> set[int]:
        async def work(connection: Connection) -> set[int]:
            parameters = (STATES[state], sorted(keys), self.token)
            cursor = await connection.execute(_MARK, parameters, binary=True)
            if cursor.rowcount == len(keys):
                return set()
            cursor = await connection.execute(
                f"{_LOOK} AND token = %b AND state = %b::int2", (keys, self.token, STATES[state])
            )
            good = {bytes(key) for key, _ in await cursor.fetchall()}
            return {index for index, key in enumerate(keys) if key not in good}

        return await self._pool.call(work)

    async def _record(self, attempts: dict[bytes, Attempts]) -> None:
        keys = sorted(attempts)
        await self._pool.fetch(_RECORD, (keys, [_encode(attempts[key]) for key in keys], self.token))

    async def _release(self, keys: list[bytes]) -> None:
        await self._pool.fetch(_RELEASE, {"keys": keys, "token": self.token})

    async def _forget(self, keys: list[bytes]) -> None:
        await self._pool.fetch(_FORGET, {"keys": keys})
