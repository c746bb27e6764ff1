"""Checkpoints and suspects in PostgreSQL."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

from headrace.engine.ledger import Identity
from headrace.stores.postgres.ledger import PostgresLedger
from headrace.stores.postgres.pool import Connection, Pool
from headrace.stores.shared import digests

__all__ = ["PostgresCheckpoints", "PostgresSuspects"]

_SAVE = (
    "INSERT INTO headrace_checkpoints SELECT %s, n.name, n.value FROM unnest(%s::text[], %b::bytea[]) n (name, value)"
    " ON CONFLICT (scope, name) DO UPDATE SET value = excluded.value"
)
_REMOVE = "DELETE FROM headrace_checkpoints WHERE scope = %s AND name = ANY(%s::text[])"
#: Processes of this app that ended without saying so: of this place, or with a lease that ran out.
_UNCLEAN = (
    "DELETE FROM headrace_processes p WHERE app = %s AND (place = %s OR NOT EXISTS"
    " (SELECT FROM headrace_owners o WHERE o.token = p.token AND o.expires > clock_timestamp())) RETURNING id"
)
_STARTED = (
    "INSERT INTO headrace_starts AS s SELECT k, 1, clock_timestamp() FROM unnest(%b::bytea[]) k"
    " ON CONFLICT (key) DO UPDATE SET count = s.count + 1, at = excluded.at RETURNING key, count"
)


class PostgresCheckpoints:
    """See `headrace.engine.checkpoints.Checkpoints`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def load(self, scope: str) -> Mapping[str, bytes]:
        return dict(await self._pool.fetch("SELECT name, value FROM headrace_checkpoints WHERE scope = %s", (scope,)))

    async def save(self, scope: str, changes: Mapping[str, bytes | None]) -> None:
        kept = {name: value for name, value in sorted(changes.items()) if value is not None}
        gone = [name for name, value in changes.items() if value is None]

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                if kept:
                    await connection.execute(_SAVE, (scope, list(kept), list(kept.values())))
                if gone:
                    await connection.execute(_REMOVE, (scope, gone))

        await self._pool.call(work)


class PostgresSuspects:
    """See `headrace.engine.checkpoints.Suspects`.

    A place is a host name and a slot that the worker's supervisor gives (``HEADRACE_SLOT``). A process of another place has
    ended uncleanly where its lease ran out: the pod that replaces it has another name.
    """

    def __init__(self, pool: Pool, ledger: PostgresLedger, app: str) -> None:
        self._pool = pool
        self._ledger = ledger
        self._app = app

    async def begin(self, app: str, process: str) -> bool:
        place = f"{socket.gethostname()}/{os.environ.get('HEADRACE_SLOT', '0')}"

        async def work(connection: Connection) -> bool:
            async with connection.transaction():
                cursor = await connection.execute(_UNCLEAN, (app, place))
                dead = await cursor.fetchall()
                await connection.execute(
                    "INSERT INTO headrace_processes VALUES (%s, %s, %s, %s)", (app, place, process, self._ledger.token)
                )
            return any(id != process for (id,) in dead)

        return await self._pool.call(work)

    async def recorded(self, handler: str, identities: Sequence[Identity]) -> Sequence[int]:
        keys = digests(f"{self._app}__{handler}", identities)
        found = await self._pool.fetch("SELECT key, count FROM headrace_starts WHERE key = ANY(%b::bytea[])", (keys,))
        counts = {bytes(key): count for key, count in found}
        return [counts.get(key, 0) for key in keys]

    async def started(self, handler: str, identities: Sequence[Identity]) -> Sequence[int]:
        keys = digests(f"{self._app}__{handler}", identities)
        counts = dict(await self._pool.fetch(_STARTED, (sorted(set(keys)),)))
        return [counts[key] for key in keys]

    async def finished(self, handler: str, identities: Sequence[Identity]) -> None:
        keys = digests(f"{self._app}__{handler}", identities)
        await self._pool.fetch("DELETE FROM headrace_starts WHERE key = ANY(%b::bytea[])", (keys,))

    async def end(self, app: str, process: str) -> None:
        await self._pool.fetch("DELETE FROM headrace_processes WHERE app = %s AND id = %s", (app, process))
