"""The tables of a SQLite store, as a list of migrations: one a version, never changed once released.

A transactional handler's own tables live in the same file, so ours begin with ``headrace_`` and their version has a table of
its own: ``user_version`` is the user's.
"""

from __future__ import annotations

import sqlite3

from headrace.errors import ConfigurationError

__all__ = ["MIGRATIONS", "migrate"]

MIGRATIONS = [
    (
        "CREATE TABLE headrace_marks (scope TEXT, source TEXT, id TEXT, state TEXT NOT NULL, at REAL NOT NULL,"
        " PRIMARY KEY (scope, source, id)) WITHOUT ROWID",
        "CREATE INDEX headrace_marks_by_time ON headrace_marks (at)",
        "CREATE TABLE headrace_attempts (scope TEXT, source TEXT, id TEXT, data BLOB NOT NULL, at REAL NOT NULL,"
        " PRIMARY KEY (scope, source, id)) WITHOUT ROWID",
        "CREATE TABLE headrace_letters (id TEXT PRIMARY KEY, app TEXT NOT NULL, handler TEXT NOT NULL,"
        " state TEXT NOT NULL, last_seen REAL NOT NULL, revision INTEGER NOT NULL, data BLOB NOT NULL) WITHOUT ROWID",
        "CREATE INDEX headrace_letters_by_age ON headrace_letters (app, last_seen, id)",
        "CREATE INDEX headrace_letters_by_state ON headrace_letters (app, state, handler, last_seen)",
        "CREATE TABLE headrace_checkpoints (scope TEXT, name TEXT, value BLOB NOT NULL,"
        " PRIMARY KEY (scope, name)) WITHOUT ROWID",
        "CREATE TABLE headrace_starts (scope TEXT, source TEXT, id TEXT, count INTEGER NOT NULL,"
        " PRIMARY KEY (scope, source, id)) WITHOUT ROWID",
        "CREATE TABLE headrace_processes (app TEXT, id TEXT, PRIMARY KEY (app, id)) WITHOUT ROWID",
        "CREATE TABLE headrace_owner (token INTEGER NOT NULL, id TEXT NOT NULL, pid INTEGER NOT NULL,"
        " host TEXT NOT NULL, since REAL NOT NULL)",
        "INSERT INTO headrace_owner VALUES (0, '', 0, '', 0)",
        "CREATE TABLE headrace_outbox (number INTEGER PRIMARY KEY AUTOINCREMENT, app TEXT NOT NULL,"
        " handler TEXT NOT NULL, destination TEXT NOT NULL, data BLOB NOT NULL, at REAL NOT NULL)",
        "CREATE INDEX headrace_outbox_by_app ON headrace_outbox (app, number)",
    ),
    ("ALTER TABLE headrace_outbox ADD COLUMN refused TEXT",),
]


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the file to the newest version, under its write lock: a second process that does the same waits, and finds
    nothing left to do. Raises `ConfigurationError` for a file of a newer Headrace."""
    if _version(connection, path) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS headrace_schema (version INTEGER NOT NULL)")
        version = _version(connection, path)
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute("DELETE FROM headrace_schema")
        connection.execute("INSERT INTO headrace_schema VALUES (?)", (len(MIGRATIONS),))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection, path: str) -> int:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'headrace_schema'").fetchone():
        return 0
    row = connection.execute("SELECT version FROM headrace_schema").fetchone()
    version: int = row[0] if row else 0
    if version > len(MIGRATIONS):
        raise ConfigurationError(
            f"store {path} has schema version {version}, this Headrace knows {len(MIGRATIONS)}: upgrade Headrace"
        )
    return version
