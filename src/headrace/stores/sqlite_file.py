"""One SQLite file, one thread that owns its connection, and group commit.

Work is a function of the connection. What is queued while a transaction is under way shares the next one, so that many small
calls cost one commit. A crash loses no committed transaction (WAL); with ``full`` it also survives a loss of power.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from headrace.errors import ConfigurationError, RefusedError, StoreUnavailable

__all__ = ["SQLiteFile"]

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]

#: Version of the schema that this code reads and writes. A newer file is refused.
SCHEMA = 1
_MIGRATIONS = [
    """
    CREATE TABLE marks (scope TEXT, source TEXT, id TEXT, state TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (scope, source, id)) WITHOUT ROWID;
    CREATE INDEX marks_by_time ON marks (at);
    CREATE TABLE attempts (scope TEXT, source TEXT, id TEXT, data BLOB NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (scope, source, id)) WITHOUT ROWID;
    CREATE TABLE letters (id TEXT PRIMARY KEY, app TEXT NOT NULL, handler TEXT NOT NULL, state TEXT NOT NULL,
        last_seen REAL NOT NULL, revision INTEGER NOT NULL, data BLOB NOT NULL) WITHOUT ROWID;
    CREATE INDEX letters_by_handler ON letters (app, handler, state, last_seen);
    CREATE TABLE checkpoints (scope TEXT, name TEXT, value BLOB NOT NULL, PRIMARY KEY (scope, name)) WITHOUT ROWID;
    CREATE TABLE starts (scope TEXT, source TEXT, id TEXT, count INTEGER NOT NULL,
        PRIMARY KEY (scope, source, id)) WITHOUT ROWID;
    CREATE TABLE processes (app TEXT, id TEXT, PRIMARY KEY (app, id)) WITHOUT ROWID;
    """,
]


class SQLiteFile:
    """``path``: the file. ``beside``: a worker may own the file; this connection takes no ownership."""

    def __init__(self, path: str, *, beside: bool = False) -> None:
        self.path = path
        self._beside = beside
        self._queue: queue.SimpleQueue[tuple[Work, bool, asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._users = 0

    async def open(self) -> None:
        """Own the file, migrate it. Raises `RefusedError` where another worker owns it (its pid is named),
        `ConfigurationError` where it cannot be a store, `StoreUnavailable` where the disk does not answer."""
        if self._thread is not None:
            return
        self._loop = asyncio.get_running_loop()
        if not self._beside:
            self._own()
        ready: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(self._loop, ready), name="headrace-sqlite", daemon=True)
        self._thread.start()
        try:
            await ready
        except BaseException:
            self._thread = None
            self._disown()
            raise

    def _own(self) -> None:
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"store {self.path}: its folder cannot be made: {error}") from error
        self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._lock, 32).decode("ascii", "replace").strip()
            os.close(self._lock)
            self._lock = None
            raise RefusedError(
                f"store {self.path}: the worker with pid {holder or '?'} owns this file; a SQLite file has one worker at a "
                "time. Stop that one, use another file, or use postgresql:// for several workers"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _disown(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def do(self, work: Callable[[sqlite3.Connection], T], *, full: bool = False) -> T:
        """Run a function in a transaction; returns after the commit. ``full``: it must survive a loss of power.

        Raises `StoreUnavailable` where SQLite cannot (disk full, I/O error, locked for long); nothing of it happened.
        """
        if self._thread is None or self._loop is None:
            raise StoreUnavailable(f"store {self.path} is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((work, full, future))
        return await future

    async def close(self) -> None:
        """End the thread after what is queued, and give the file up."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await asyncio.get_running_loop().run_in_executor(None, thread.join)
        self._disown()

    # In the thread

    def _run(self, loop: asyncio.AbstractEventLoop, ready: asyncio.Future[None]) -> None:
        try:
            connection = self._connect()
        except (ConfigurationError, StoreUnavailable) as error:
            loop.call_soon_threadsafe(ready.set_exception, error)
            return
        loop.call_soon_threadsafe(ready.set_result, None)
        ending = False
        while not ending:
            batch = []
            item = self._queue.get()
            while True:
                if item is None:
                    ending = True
                    break
                batch.append(item)
                if len(batch) >= 256:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if batch:
                answers = self._transact(connection, batch)
                try:
                    loop.call_soon_threadsafe(_answer, answers)
                except RuntimeError:
                    break  # the loop is closed: nobody waits any more
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, timeout=5.0, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA:
                connection.close()
                raise ConfigurationError(
                    f"store {self.path} has schema version {version}, this Headrace knows {SCHEMA}: upgrade Headrace"
                )
            for number, script in enumerate(_MIGRATIONS[version:], version + 1):
                connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version={number}; COMMIT;")
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error):
                raise ConfigurationError(f"store {self.path} is no SQLite file: {error}") from error
            raise StoreUnavailable(f"store {self.path}: {error}") from error
        return connection

    def _transact(
        self, connection: sqlite3.Connection, batch: list[tuple[Work, bool, asyncio.Future[Any]]]
    ) -> list[tuple[asyncio.Future[Any], Any, BaseException | None]]:
        full = any(needs_full for _, needs_full, _ in batch)
        answers: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        try:
            connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            for work, _, future in batch:
                connection.execute("SAVEPOINT work")
                try:
                    answers.append((future, work(connection), None))
                except sqlite3.OperationalError:
                    raise
                except Exception as error:  # noqa: BLE001 - it is the caller's
                    connection.execute("ROLLBACK TO work")
                    answers.append((future, None, error))
                connection.execute("RELEASE work")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            failure = StoreUnavailable(f"store {self.path}: {error}")
            return [(future, None, failure) for _, _, future in batch]
        return answers


def _answer(answers: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for future, value, error in answers:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
