"""The SQLite store: conformance, its one owner, full disks, its schema, retention."""

import asyncio
import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from headrace.engine.ledger import Owner
from headrace.errors import ConfigurationError, RefusedError, StoreUnavailable
from headrace.stores import open_store
from headrace.stores.sqlite.file import SQLiteFile
from headrace.stores.sqlite.ledger import SWEEP_ROWS, SQLiteLedger
from headrace.testing.conformance import (
    CheckpointConformance,
    DeadLetterConformance,
    DurableLedgerConformance,
    LedgerConformance,
    OutageConformance,
    SuspectConformance,
)
from headrace.testing.conformance.records import make_letter

LEDGER_TABLES = ("headrace_marks", "headrace_attempts")


class TestSQLite(
    LedgerConformance,
    DurableLedgerConformance,
    OutageConformance,
    DeadLetterConformance,
    CheckpointConformance,
    SuspectConformance,
):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path}/store.db"
        self._files: list[SQLiteFile] = []

    @asynccontextmanager
    async def opened(self, **settings):
        async with super().opened(**settings) as store:
            self._files.append(store.connection)
            yield store

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """A disk without a free page: the real SQLITE_FULL, at every write of the ledger."""
        file = self._files[-1]

        def fill(connection: sqlite3.Connection) -> None:
            for table in LEDGER_TABLES:
                connection.execute(
                    f"CREATE TRIGGER full_{table} BEFORE INSERT ON {table} BEGIN"
                    " INSERT INTO filler SELECT zeroblob(8192); END"
                )
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")

        def mend(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA max_page_count = 1000000")
            for table in LEDGER_TABLES:
                connection.execute(f"DROP TRIGGER full_{table}")

        await file.do(lambda c: c.execute("CREATE TABLE filler (data)") and None)
        await file.do(fill)
        yield
        await file.do(mend)


def a_store(path: Path, **settings):
    return open_store(f"sqlite:///{path}", app="shop", **settings)


def an_owner(id: str = "one") -> Owner:
    return Owner("shop", id, os.getpid(), "here")


async def test_a_second_worker_is_refused_and_told_who_holds_the_file(tmp_path):
    first, second = a_store(tmp_path / "s.db"), a_store(tmp_path / "s.db")
    await first.open(an_owner("one"))
    with pytest.raises(RefusedError, match=rf"s\.db.*pid {os.getpid()}.*one worker at a time") as caught:
        await second.open(an_owner("two"))
    assert caught.value.exit_code == 5
    await first.close()
    await second.open(an_owner("two"))
    await second.close()


async def test_a_worker_in_another_process_is_refused_until_the_first_is_killed(tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    suite = TestSQLite()
    suite.url, suite._files = url, []
    async with suite.claimant() as other:
        with pytest.raises(RefusedError, match=f"pid {other._process.pid} "):
            await open_store(url, app="shop").open(an_owner())
        await other.kill()
        store = open_store(url, app="shop")
        await store.open(an_owner())
        await store.close()


async def test_one_owner_may_open_its_file_twice(tmp_path):
    first, second = a_store(tmp_path / "s.db"), a_store(tmp_path / "s.db")
    await first.open(an_owner())
    await second.open(an_owner())
    await first.close()
    with pytest.raises(RefusedError):
        await a_store(tmp_path / "s.db").open(an_owner("two"))
    await second.close()
    third = a_store(tmp_path / "s.db")
    await third.open(an_owner("two"))
    await third.close()


async def test_dead_letters_are_looked_after_beside_a_running_worker(tmp_path):
    worker, beside = a_store(tmp_path / "s.db"), a_store(tmp_path / "s.db", beside=True)
    await worker.open(an_owner())
    await beside.open(an_owner("dlq"))
    await worker.dead_letters.put([make_letter()])
    stored = await beside.dead_letters.get(make_letter().id)
    assert await beside.dead_letters.update(make_letter(state="dropped"), stored.revision)
    await beside.close()
    assert (await worker.dead_letters.get(make_letter().id)).letter.state == "dropped"
    assert [claim.state for claim in await worker.ledger.claim("bill", [("s", "1")])] == ["claimed"]
    await worker.close()


async def test_an_owner_whose_lock_was_removed_is_fenced_by_its_successor(tmp_path):
    first, second = a_store(tmp_path / "s.db"), a_store(tmp_path / "s.db")
    await first.open(an_owner("one"))
    await first.ledger.claim("bill", [("s", "1")])
    os.unlink(tmp_path / "s.db.lock")
    await second.open(an_owner("two"))
    assert [claim.state for claim in await second.ledger.claim("bill", [("s", "1")])] == ["claimed"]
    assert await first.ledger.mark("bill", [("s", "1")], "done") == [False]
    with pytest.raises(RefusedError, match="taken this file over"):
        await first.ledger.claim("bill", [("s", "2")])
    assert await second.ledger.mark("bill", [("s", "1")], "done") == [True]
    await first.close()
    await second.close()


async def test_a_file_of_a_newer_headrace_is_refused_untouched(tmp_path):
    store = a_store(tmp_path / "s.db")
    await store.open(an_owner())
    await store.close()
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("UPDATE headrace_schema SET version = 99")
    connection.close()
    store = a_store(tmp_path / "s.db")
    with pytest.raises(ConfigurationError, match=r"schema version 99.*upgrade Headrace"):
        await store.open(an_owner())
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.dead_letters.get("x")


async def test_many_processes_may_migrate_a_new_file_at_once(tmp_path):
    script = (
        "import asyncio, sys\n"
        "from headrace.engine.ledger import Owner\n"
        "from headrace.stores import open_store\n"
        "async def main():\n"
        "    store = open_store(sys.argv[1], app='shop', beside=True)\n"
        "    await store.open(Owner('shop', sys.argv[2], 1, 'here'))\n"
        "    assert await store.dead_letters.get('x') is None\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", script, f"sqlite:///{tmp_path}/s.db", str(number))
        for number in range(4)
    ]
    assert [await process.wait() for process in processes] == [0] * 4


@pytest.mark.parametrize("make", ["text", "folder"])
async def test_what_is_no_sqlite_file_is_a_wrong_configuration(tmp_path, make):
    path = tmp_path / "s.db"
    if make == "text":
        path.write_text("this is a plain text file, and long enough to have a page of its own" * 100)
    else:
        path.mkdir()
    with pytest.raises(ConfigurationError, match=r"s\.db"):
        await a_store(path).open(an_owner())


async def test_a_missing_folder_is_made(tmp_path):
    store = a_store(tmp_path / "a" / "b" / "s.db")
    await store.open(an_owner())
    await store.close()
    assert (tmp_path / "a" / "b" / "s.db").exists()


async def test_a_relative_path_is_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///s.db", app="shop")
    await store.open(an_owner())
    await store.close()
    assert (tmp_path / "s.db").exists()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://host/s.db"])
def test_a_url_without_a_path_is_refused(url):
    with pytest.raises(ConfigurationError, match="sqlite:///relative"):
        open_store(url, app="shop")


async def test_a_file_locked_by_another_program_is_an_outage_not_an_answer(tmp_path, monkeypatch):
    monkeypatch.setattr("headrace.stores.sqlite.file.BUSY", 0.05)
    store = a_store(tmp_path / "s.db")
    await store.open(an_owner())
    await store.ledger.claim("bill", [("s", "1")])
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await store.ledger.mark("bill", [("s", "1")], "done")
    other.execute("ROLLBACK")
    other.close()
    assert await store.ledger.mark("bill", [("s", "1")], "done") == [True]
    await store.close()


async def test_old_marks_go_in_batches_and_young_ones_stay(tmp_path, monkeypatch):
    file = SQLiteFile(str(tmp_path / "s.db"))
    await file.open(an_owner())
    ledger = SQLiteLedger(file, "shop", retention=3600.0)
    now = 10_000_000.0
    monkeypatch.setattr("headrace.stores.sqlite.ledger.time.time", lambda: now)
    events = [("s", str(number)) for number in range(int(2.5 * SWEEP_ROWS))]
    await ledger.claim("bill", events)
    await ledger.mark("bill", events, "done")
    now += 3700.0

    async def one_more(number: int) -> int:
        event = ("young", str(number))
        await ledger.claim("bill", [event])
        await ledger.mark("bill", [event], "done")
        return (await file.do(lambda c: c.execute("SELECT count(*) FROM headrace_marks").fetchone()))[0]

    left = [await one_more(number) for number in range(4)]
    assert left == [len(events) - SWEEP_ROWS + 1, len(events) - 2 * SWEEP_ROWS + 2, 3, 4]
    assert [claim.state for claim in await ledger.claim("bill", [("young", "0"), events[0]])] == ["done", "claimed"]
    await file.close()


async def test_calls_that_queue_up_share_a_transaction_and_one_bad_call_fails_alone(tmp_path):
    file = SQLiteFile(str(tmp_path / "s.db"))
    await file.open(an_owner())
    await file.do(lambda c: c.execute("CREATE TABLE notes (text UNIQUE)") and None)
    commits: list[str] = []
    await file.do(lambda c: c.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None))

    def write(text: str):
        return file.do(lambda c: c.execute("INSERT INTO notes VALUES (?)", (text,)).rowcount)

    block = file.do(lambda c: __import__("time").sleep(0.05))
    answers = await asyncio.gather(block, write("a"), write("b"), write("a"), write("c"), return_exceptions=True)
    assert answers[1:3] + answers[4:] == [1, 1, 1]
    assert isinstance(answers[3], sqlite3.IntegrityError)
    assert len(commits) <= 3
    assert await file.do(lambda c: c.execute("SELECT count(*) FROM notes").fetchone()) == (3,)
    await file.close()


async def test_a_closed_store_says_so(tmp_path):
    store = a_store(tmp_path / "s.db")
    await store.open(an_owner())
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.ledger.claim("bill", [("s", "1")])


LIMITED = """
import asyncio, resource, signal, sys
from headrace.engine.ledger import Owner
from headrace.errors import StoreUnavailable
from headrace.stores import open_store

async def main():
    store = open_store(sys.argv[1], app="shop")
    await store.open(Owner("shop", "one", 1, "here"))
    events = [("s", str(number)) for number in range(20_000)]
    await store.ledger.claim("bill", events)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    try:
        await store.ledger.mark("bill", events, "done")
    except StoreUnavailable as error:
        print("waits:", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(set(await store.ledger.mark("bill", events, "done")))
    await store.close()

asyncio.run(main())
"""


async def test_a_write_that_the_system_refuses_is_waited_for(tmp_path):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LIMITED, f"sqlite:///{tmp_path}/s.db", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    lines = output.decode().splitlines()
    assert lines[0].startswith("waits: store ")
    assert lines[1] == "{True}"
