"""One SQLite file, one thread that owns its connection, and group commit.

Work is a function of the connection. What is queued while a transaction is under way shares the next one, so that many small
calls cost one commit. A commit survives the death of the process (WAL); with ``full`` it also survives a loss of power.

A file has one worker at a time. The lock on ``<file>.lock`` proves a dead owner at once, for the system drops it with the
process; a token in the file, one higher at each start, refuses an owner whose lock was removed under it.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from headrace.engine.ledger import Owner
from headrace.errors import ConfigurationError, HeadraceError, StoreUnavailable
from headrace.stores.sqlite.ownership import Ownership
from headrace.stores.sqlite.schema import migrate

__all__ = ["SQLiteFile", "Session"]

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

#: Calls that share one transaction at most.
SHARED = 256
#: KiB of pages in memory, at most (more makes the ledger no quicker: the system caches the file too); pages in the
#: write-ahead log before it is written back.
CACHE = 16 * 1024
CHECKPOINT = 10_000
#: Seconds to wait for another process's transaction.
BUSY = 5.0
#: What is wrong with the way that a file was named, and not with the disk.
_MISNAMED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOTADB}
#: Trouble of the disk or of the machine: waiting, or an operator, may mend it.
_TROUBLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
}


class _Item(NamedTuple):
    """Work for the thread. ``session``: this is the begin of one instead."""

    work: Work[Any]
    full: bool
    future: asyncio.Future[Any]
    session: Session | None = None


Answer = tuple["asyncio.Future[Any]", Any, BaseException | None]


class SQLiteFile:
    """``path``: the file. ``beside``: a worker may own the file; this connection takes no ownership.

    ``token``: this owner's, 0 beside.
    """

    def __init__(self, path: str, *, beside: bool = False) -> None:
        self.path = path
        self.token = 0
        self._beside = beside
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ownership: Ownership | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sessions: set[Session] = set()

    async def open(self, owner: Owner) -> None:
        """Own the file, migrate it. Raises `RefusedError` where another worker owns it (its pid is named),
        `ConfigurationError` where it cannot be a store, `StoreUnavailable` where the disk does not answer."""
        if self._thread is not None:
            return
        self._loop = asyncio.get_running_loop()
        try:
            self._prepare(owner)
        except OSError as error:
            raise ConfigurationError(f"store {self.path} cannot be opened: {error}") from error
        ready: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(self._loop, ready, owner), name="headrace-sqlite", daemon=True
        )
        self._thread.start()
        try:
            await ready
        except BaseException:
            await self.close()
            raise

    def _prepare(self, owner: Owner) -> None:
        os.makedirs(os.path.dirname(os.path.realpath(self.path)), exist_ok=True)
        if not self._beside:
            self._ownership = Ownership.take(self.path, owner)

    async def do(self, work: Work[T], *, full: bool = False) -> T:
        """Run a function in a transaction; returns after the commit. ``full``: it must survive a loss of power.

        Raises `StoreUnavailable` where SQLite cannot (disk full, I/O error, locked for long): nothing of it happened.
        """
        return await self._queued(work, full, None)

    async def session(self) -> Session:
        """A transaction that stays open over many calls; all other work waits until it ends. For transactional handlers."""
        session = Session(self)
        self._sessions.add(session)
        try:
            await self._queued(_nothing, True, session)
        except BaseException:
            session.abandon()
            raise
        return session

    async def _queued(self, work: Work[T], full: bool, session: Session | None) -> T:
        if self._thread is None or self._loop is None:
            raise StoreUnavailable(f"store {self.path} is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Item(work, full, future, session))
        return await future

    async def close(self) -> None:
        """Roll back open sessions, end the thread after what is queued, and give the file up."""
        thread, self._thread = self._thread, None
        for session in list(self._sessions):
            session.abandon()
        if thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(thread.join)
        if self._ownership is not None:
            self._ownership.release()
            self._ownership = None

    # In the thread

    def _run(self, loop: asyncio.AbstractEventLoop, ready: asyncio.Future[None], owner: Owner) -> None:
        try:
            connection = self._connect(owner)
        except Exception as error:  # noqa: BLE001 - raised where the file is opened
            _tell(loop, [(ready, None, error)])
            return
        _tell(loop, [(ready, None, None)])
        held: list[_Item | None] = []
        while True:
            item = held.pop() if held else self._queue.get()
            if item is None:
                break
            if item.session is not None:
                _serve(connection, loop, self.path, item.future, item.session)
                continue
            batch = [item]
            while len(batch) < SHARED and not self._queue.empty():
                item = self._queue.get()
                if item is None or item.session is not None:
                    held.append(item)
                    break
                batch.append(item)
            _tell(loop, self._transact(connection, batch))
        connection.close()

    def _connect(self, owner: Owner) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(f"PRAGMA cache_size=-{CACHE}")
                connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT}")
                migrate(connection, self.path)
                if not self._beside:
                    connection.execute(
                        "UPDATE headrace_owner SET token = token + 1, id = ?1, pid = ?2, host = ?3, since = ?4"
                        " WHERE id <> ?1",
                        (owner.id, owner.pid, owner.host, time.time()),
                    )
                    (self.token,) = connection.execute("SELECT token FROM headrace_owner").fetchone()
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            if _code(error) in _MISNAMED:
                raise ConfigurationError(f"store {self.path} cannot be used as a SQLite file: {error}") from error
            raise StoreUnavailable(f"store {self.path}: {error}") from error
        return connection

    def _transact(self, connection: sqlite3.Connection, batch: Sequence[_Item]) -> list[Answer]:
        answers: list[Answer] = []
        try:
            _begin(connection, full=any(item.full for item in batch))
            for work, _, future, _ in batch:
                if len(batch) > 1:
                    connection.execute("SAVEPOINT work")
                try:
                    answers.append((future, work(connection), None))
                except Exception as error:
                    if len(batch) == 1 or _is_trouble(error):
                        raise
                    connection.execute("ROLLBACK TO work")
                    answers.append((future, None, error))
                if len(batch) > 1:
                    connection.execute("RELEASE work")
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - told to everyone who shared the transaction
            failure = _end(connection, self.path, error)
            return [(item.future, None, failure) for item in batch]
        return answers


class Session:
    """One transaction over many calls. Made by `SQLiteFile.session`; ends with `commit`, `rollback` or `abandon`."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file
        self._queue: queue.SimpleQueue[tuple[str, Work[Any], asyncio.Future[Any] | None]] = queue.SimpleQueue()
        self._ended = False

    async def do(self, work: Work[T]) -> T:
        """Run a function in the transaction. What it raises leaves the transaction open."""
        return await self._call("do", work)

    async def commit(self, work: Work[bool]) -> bool:
        """Run a last function and commit; where it returns ``False``, roll back. Survives a loss of power."""
        answer = self._call("commit", work)
        self._end()
        return await answer

    async def rollback(self) -> None:
        """Undo everything."""
        if not self._ended:
            answer = self._call("rollback", _nothing)
            self._end()
            await answer

    def abandon(self) -> None:
        """Roll back without waiting."""
        if not self._ended:
            self._end()
            self._queue.put(("rollback", _nothing, None))

    def _end(self) -> None:
        self._ended = True
        self._file._sessions.discard(self)

    def _call(self, kind: str, work: Work[T]) -> asyncio.Future[T]:
        if self._ended:
            raise StoreUnavailable(f"store {self._file.path}: this transaction has ended")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put((kind, work, future))
        return future


def _serve(
    connection: sqlite3.Connection,
    loop: asyncio.AbstractEventLoop,
    path: str,
    ready: asyncio.Future[Any],
    session: Session,
) -> None:
    """Give the thread to one session until it ends."""
    broken: BaseException | None = None
    try:
        _begin(connection, full=True)
    except sqlite3.Error as error:
        broken = _end(connection, path, error)
    _tell(loop, [(ready, None, broken)])
    while True:
        kind, work, future = session._queue.get()
        value: Any = None
        failure = None if kind == "rollback" else broken
        if failure is None and kind != "rollback":
            try:
                value = work(connection)
                if kind == "commit":
                    connection.execute("COMMIT" if value else "ROLLBACK")
            except Exception as error:  # noqa: BLE001 - the session's owner hears of it
                failure = error
                if kind == "commit" or _is_trouble(error) or not connection.in_transaction:
                    failure = broken = _end(connection, path, error)
        if kind != "do" and connection.in_transaction:
            connection.execute("ROLLBACK")
        if future is not None:
            _tell(loop, [(future, value, failure)])
        if kind != "do":
            return


def _begin(connection: sqlite3.Connection, *, full: bool) -> None:
    connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")


def _end(connection: sqlite3.Connection, path: str, error: Exception) -> Exception:
    """Roll back after a failure (SQLite may have done so already); what the callers are told."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error as second:
        error = second
    if _is_trouble(error):
        failure: Exception = StoreUnavailable(f"store {path}: {error}")
        failure.__cause__ = error
        return failure
    if isinstance(error, sqlite3.DatabaseError) and _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        failure = HeadraceError(
            f"store {path} is damaged ({error}): stop the worker, and restore the file or recover it with the sqlite3 tool"
        )
        failure.__cause__ = error
        return failure
    return error


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_trouble(error: BaseException) -> bool:
    return isinstance(error, sqlite3.Error) and _code(error) in _TROUBLE


def _nothing(connection: sqlite3.Connection) -> None:
    """The work of a session's begin and end."""


def _tell(loop: asyncio.AbstractEventLoop, answers: list[Answer]) -> None:
    # A loop that is closed has nobody left who waits.
    if not loop.is_closed():
        loop.call_soon_threadsafe(_answer, answers)


def _answer(answers: list[Answer]) -> None:
    for future, value, error in answers:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
