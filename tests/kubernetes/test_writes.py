"""Our own writes are remembered until the server has shown them, or no longer has them."""

import asyncio
import time
from pathlib import Path

from headrace.kubernetes import Watch
from headrace.kubernetes.backlog import Backlog
from headrace.kubernetes.objects import Object
from headrace.kubernetes.reflector import Present
from headrace.kubernetes.store import Store
from headrace.kubernetes.writes import Writes
from tests.kubernetes.scripted import Exchange, Scripted, synced
from tests.kubernetes.watching import Watching


def test_a_write_that_a_restored_server_has_forgotten_holds_nothing() -> None:
    writes = Writes()
    writes.record("pods", "n/a", "u", "5000")
    backlog = Backlog(hold=lambda change: writes.ahead_of("pods", change))
    store = Store(baseline="1")

    def show(version: str, truth: bool) -> None:
        for change in store.apply(Present(Object("n/a", "u", version, b"{}"), truth)):
            backlog.add(change)

    show("4000", False)
    assert not backlog.ready
    before = time.monotonic() - 1
    writes.truth("pods", "n/a", "1000", before)
    show("1000", True)
    assert not backlog.ready, "that list was asked for before the write"
    writes.truth("pods", "n/a", "1000", time.monotonic() + 1)
    backlog.reconsider()
    assert backlog.take().version == "1000"
    backlog.done("n/a")
    show("1001", False)
    assert backlog.take().version == "1001"


async def test_a_watch_forgets_a_write_that_the_servers_latest_list_no_longer_has(tmp_path: Path) -> None:
    async def restored(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.event("ADDED", "a", 10, uid="u-a")
        await exchange.bookmark(10, end=True)
        await exchange.event("MODIFIED", "a", 11, uid="u-a")
        await asyncio.Event().wait()

    async def written(exchange: Exchange) -> None:
        connection = seen.source._connection
        assert connection is not None
        connection.writes.record("configmaps", "n/a", "u-a", "5001")
        await exchange.error(410, "Expired")

    async with Scripted(synced(5000, "a", then=written), restored) as server:
        watch = Watch("configmaps", namespace="n", kubeconfig=server.kubeconfig(tmp_path, token="t"))
        seen = Watching(watch)
        async with seen:
            await seen.until(lambda events: events and events[-1].id.startswith("u-a:11:"))
