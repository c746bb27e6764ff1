"""Kill -9 where a transaction has committed and where its outputs were confirmed: effects and outputs happen once."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import uuid
from collections import Counter, defaultdict

import psycopg
import pytest

from headrace import App, Event
from tests.stores.test_postgres import a_database

CUSTOMERS, EACH = 10, 12


def a_store(kind: str, tmp_path, request) -> tuple[str, object]:
    """A store's URL, and a connection to look into it from outside."""
    if kind == "sqlite":
        path = tmp_path / "shop.db"
        connection = sqlite3.connect(path, isolation_level=None)
        return f"sqlite:///{path}", connection
    url = a_database(request.getfixturevalue("postgres_server"))
    return url, psycopg.connect(url, autocommit=True)


def started(*arguments: str, **environment: str) -> subprocess.Popen:
    """One life of the app: broker, store, stream; and variables."""
    command = [sys.executable, "-m", "tests.stores.transacting", *arguments]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdin=subprocess.PIPE)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", ["committed:45", "relayed:45"])
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_killed_process_leaves_each_effect_and_each_output_once(kind, point, nats_server, tmp_path, request):
    store, looking = a_store(kind, tmp_path, request)
    looking.execute("CREATE TABLE payments (customer text, number integer)")
    stream = f"t{uuid.uuid4().hex[:10]}"
    paid: dict[str, list[int]] = defaultdict(list)
    reader = App("reader", broker=nats_server.url, store="memory://", admin="127.0.0.1:0")

    @reader.on(f"{stream}.paid", key="customer")
    async def seen(event: Event) -> None:
        paid[event.data["customer"]].append(event.data["number"])

    kills = 0
    async with reader.running():
        for number in range(EACH):
            await asyncio.gather(
                *(
                    reader.publish(f"{stream}.created", {"customer": f"c{customer}", "number": number})
                    for customer in range(CUSTOMERS)
                )
            )
        async with asyncio.timeout(280):
            while sum(map(len, paid.values())) < CUSTOMERS * EACH:
                with started(nats_server.url, store, stream, HEADRACE_FAIL_POINT=point) as process:
                    try:
                        while process.poll() is None and sum(map(len, paid.values())) < CUSTOMERS * EACH:
                            await asyncio.sleep(0.05)
                        if process.poll() is not None:
                            assert process.returncode == -9
                            kills += 1
                        else:
                            process.stdin.close()
                            await asyncio.to_thread(process.wait, 60)
                    finally:
                        process.kill()
    assert kills >= 2
    rows = looking.execute("SELECT customer, number FROM payments").fetchall()
    assert Counter(rows) == Counter((f"c{customer}", number) for customer in range(CUSTOMERS) for number in range(EACH))
    assert dict(paid) == {f"c{customer}": list(range(EACH)) for customer in range(CUSTOMERS)}
    looking.close()
