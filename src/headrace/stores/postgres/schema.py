"""The tables of a PostgreSQL store, as a list of migrations: one a version, never changed once released.

They lie in the first schema of the connection's search path, beside the application's own, and begin with ``headrace_``.
A row of the ledger is written twice in its life, by the claim and by the mark; half of each page is left free, so that the
second write stays on the page of the first and touches no index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.errors import ConfigurationError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

__all__ = ["MIGRATIONS", "migrate"]

#: The advisory lock under which replicas migrate one after the other: "headrace" in ASCII, as a signed 64-bit number.
LOCK = int.from_bytes(b"headrace", "big", signed=True)

MIGRATIONS = [
    (
        "CREATE TABLE headrace_owners (token bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, app text NOT NULL,"
        " id text NOT NULL, pid bigint NOT NULL, host text NOT NULL, expires timestamptz NOT NULL)",
        # state: 0 claimed, 1 done, 2 dead, 3 dropped, 4 released with attempts to remember.
        "CREATE TABLE headrace_ledger (key bytea PRIMARY KEY, token bigint NOT NULL, at timestamptz NOT NULL,"
        " state smallint NOT NULL, attempts bytea) WITH (fillfactor = 50)",
        "CREATE TABLE headrace_letters (id text PRIMARY KEY, app text NOT NULL, handler text NOT NULL, state text NOT NULL,"
        " last_seen double precision NOT NULL, revision bigint NOT NULL, data bytea NOT NULL)",
        "CREATE INDEX headrace_letters_by_age ON headrace_letters (app, last_seen, id)",
        "CREATE INDEX headrace_letters_by_state ON headrace_letters (app, state, handler, last_seen)",
        "CREATE TABLE headrace_checkpoints (scope text, name text, value bytea NOT NULL, PRIMARY KEY (scope, name))",
        "CREATE TABLE headrace_starts (key bytea PRIMARY KEY, count integer NOT NULL, at timestamptz NOT NULL)",
        "CREATE TABLE headrace_processes (app text, place text, id text NOT NULL, token bigint NOT NULL,"
        " PRIMARY KEY (app, place))",
        "CREATE TABLE headrace_outbox (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, app text NOT NULL,"
        " data bytea NOT NULL, refused text)",
        "CREATE INDEX headrace_outbox_by_app ON headrace_outbox (app, number) WHERE refused IS NULL",
        "CREATE TABLE headrace_relays (app text PRIMARY KEY, token bigint NOT NULL)",
    ),
]


async def migrate(connection: AsyncConnection[Any], url: str) -> None:
    """Bring the database to the newest version. Replicas that start at once do it one after the other, and the second
    finds nothing left to do. Raises `ConfigurationError` for tables of a newer Headrace."""
    if await _version(connection, url) == len(MIGRATIONS):
        return
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        await connection.execute("CREATE TABLE IF NOT EXISTS headrace_schema (version integer NOT NULL)")
        version = await _version(connection, url)
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                await connection.execute(statement)
        await connection.execute("DELETE FROM headrace_schema")
        await connection.execute("INSERT INTO headrace_schema VALUES (%s)", (len(MIGRATIONS),))


async def _version(connection: AsyncConnection[Any], url: str) -> int:
    found = await (await connection.execute("SELECT to_regclass('headrace_schema') IS NOT NULL")).fetchone()
    if found is None or not found[0]:
        return 0
    row = await (await connection.execute("SELECT version FROM headrace_schema")).fetchone()
    version: int = row[0] if row else 0
    if version > len(MIGRATIONS):
        raise ConfigurationError(
            f"store {url} has schema version {version}, this Headrace knows {len(MIGRATIONS)}: upgrade Headrace"
        )
    return version
