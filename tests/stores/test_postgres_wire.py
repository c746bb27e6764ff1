"""The connection to PostgreSQL: statements that leave together, and a wait that is cut."""

import asyncio

import psycopg
import pytest

from headrace.errors import StoreUnavailable
from headrace.stores.postgres.pool import Pool
from headrace.stores.postgres.wire import Connection
from tests.stores.test_postgres import a_database


@pytest.fixture
def url(postgres_server) -> str:
    return a_database(postgres_server)


async def test_what_stands_behind_a_failed_statement_is_not_run(url):
    async with await Connection.connect(url, autocommit=True) as connection:
        await connection.together([(b"CREATE TABLE t (n text)", ())])
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.together(
                [(b"INSERT INTO t VALUES ($1)", (b"a",)), (b"SELECT 1 / 0", ()), (b"DROP TABLE t", ())]
            )
        await connection.together([(b"INSERT INTO t VALUES ($1)", (b"b",))])
        rows = await (await connection.execute("SELECT n FROM t")).fetchall()
    assert rows == [("b",)]


async def test_a_packet_that_no_buffer_holds_arrives_whole(url):
    async with await Connection.connect(url, autocommit=True) as connection:
        await connection.together([(b"CREATE TABLE t (n text)", ())])
        row = b"x" * 1_000_000
        await connection.together([(b"INSERT INTO t VALUES ($1) RETURNING n", (row,))] * 24)
        rows = await (await connection.execute("SELECT count(*), min(length(n)) FROM t")).fetchall()
    assert rows == [(24, 1_000_000)]


async def test_a_call_without_an_answer_ends_its_connection_and_asks_nobody_to_cancel(url):
    pool = Pool(url, url)
    connection = await pool.connect()
    with pytest.raises(StoreUnavailable, match="did not answer within"):
        await pool.within(connection, connection.execute("SELECT pg_sleep(600)"), 0.2)
    assert connection.closed
    again = await pool.connect()
    task = asyncio.create_task(pool.within(again, again.execute("SELECT pg_sleep(600)"), None))
    while again.pgconn.transaction_status != psycopg.pq.TransactionStatus.ACTIVE:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert again.closed
    await pool.close()
