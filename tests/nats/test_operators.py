"""What operators do to a server while ``headrace run`` works on it: consumers and streams deleted and purged, credentials
revoked, certificates replaced, a disk that fills. It goes on by itself where it can, and else says why it ends."""

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.nats.broker import create
from tests.nats.processes import Steady, all_is_well, recovers
from tests.servers.disk import SmallDisk
from tests.servers.nats import Nats
from tests.servers.process import Unavailable
from tests.spine.conftest import Start
from tests.spine.conftest import start as start
from tests.spine.process import Run, orders, publish, verdict

LONG = [pytest.mark.long, pytest.mark.timeout(1800)]
USERS = 'authorization {{ users: [ {{ user: "{}", password: "pw" }}, {{ user: "operator", password: "pw" }} ] }}'


def times(long: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("times", [1, pytest.param(long, marks=LONG)], ids=lambda times: f"{times} times")


@pytest.fixture
def nats(start_nats: Callable[..., Nats]) -> Nats:
    """The server that is changed under the app."""
    return start_nats()


def ask(url: str, verb: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request to JetStream's API, as an operator's tool makes it."""

    async def go() -> dict[str, Any]:
        broker = create(url, app="operator", settings={}, ready_within=10)
        await broker.open()
        try:
            return await broker.api.call(verb, request)
        finally:
            await broker.close()

    return asyncio.run(go())


def source(run: Run, name: str = "nats:order.created") -> dict[str, Any]:
    """What health says about a source."""
    sources = json.loads(run.get("/readyz")[1])["handlers"]["bill"]["sources"]
    return next(one for one in sources if one["name"] == name)


def logged(run: Run, words: str, *, times: int = 1) -> None:
    run.until(lambda: run.text().count(words) >= times, f"the log does not say {words!r}")


@times(20)
def test_a_consumer_deleted_under_load_is_made_again_and_nothing_is_lost(nats: Nats, start: Start, times: int) -> None:
    run = start()
    run.until(run.ready, "not ready")
    with Steady(nats.url, run, rounds=40 * times) as publisher:
        recovers(run, "the start")
        for number in range(1, times + 1):
            ask(nats.url, "CONSUMER.DELETE.order.spine__bill")
            logged(run, "consumer spine__bill was deleted; created again at sequence", times=number)
            recovers(run, "the consumer was deleted")
    run.until(lambda: run.ready() and "detail" not in source(run), "health still speaks of it")
    all_is_well(run, publisher.events)


@times(10)
def test_a_stream_deleted_and_created_anew_is_read_from_its_start(nats: Nats, start: Start, times: int) -> None:
    run = start()
    publish(run, orders(100, 5, prefix="before"))
    run.until_handled(100)
    for number in range(1, times + 1):
        ask(nats.url, "STREAM.DELETE.order")
        logged(run, "stream order is another one than before; reading it from its start", times=number)
        publish(run, orders(100, 5, prefix=f"after{number}-"))
        run.until_handled(100 * number + 100)
    assert run.ready()
    assert run.stop() == 0
    assert verdict(run).ok


def test_a_deleted_stream_that_may_not_be_created_ends_the_app_with_2(nats: Nats, start: Start) -> None:
    config = {"name": "order", "subjects": ["order", "order.>"]}
    ask(nats.url, "STREAM.CREATE.order", config)
    first = start(app="stream")
    publish(first, orders(20, 5))
    first.until_handled(20)
    assert first.stop() == 0
    run = start(app="stream", name="checking", CREATE="0")
    run.until(run.ready, "not ready with what the first run has created")
    ask(nats.url, "STREAM.DELETE.order")
    assert run.exit_code() == 2
    assert "the stream 'order' does not exist and create=False" in run.text()


def test_a_purge_is_counted_logged_and_shown_and_the_flow_goes_on(nats: Nats, start: Start) -> None:
    run = start(WORK="0.2")
    publish(run, orders(2000, 5))
    run.until_handled(10)
    ask(nats.url, "STREAM.PURGE.order")
    run.until(lambda: source(run).get("expired_unread", 0) > 0, "health does not tell of the purge")
    logged(run, "unread events were discarded by stream order (its limits or a purge)")
    publish(run, orders(20, 5, prefix="after"))
    run.until(lambda: sum(id.startswith("after") for id in run.handled()) == 20, "nothing is handled after the purge")
    assert source(run)["expired_unread"] >= 2000 - len(run.handled()) - 64 * 5
    assert run.stop() == 0


@times(5)
def test_credentials_that_are_revoked_and_given_back_lose_nothing(
    start_nats: Callable[..., Nats], nats: Nats, start: Start, times: int
) -> None:
    nats.extra = USERS.format("app")
    nats.reload()
    run = start(f"nats://app:pw@{nats.address}")
    run.until(run.ready, "not ready")
    with Steady(f"nats://operator:pw@{nats.address}", run, rounds=40 * times) as publisher:
        recovers(run, "the start")
        for _ in range(times):
            nats.extra = USERS.format("somebody")
            nats.reload()
            run.until(lambda: run.get("/readyz")[0] == 503, "still ready with revoked credentials")
            assert "not connected" in source(run)["detail"]
            assert run.get("/livez")[0] == 200
            nats.extra = USERS.format("app")
            nats.reload()
            recovers(run, "the credentials were given back")
    all_is_well(run, publisher.events)


@pytest.mark.parametrize("seconds", [2, pytest.param(None, marks=LONG)], ids=["2 seconds", "the default"])
def test_credentials_that_stay_revoked_end_the_app_with_4(nats: Nats, start: Start, seconds: int | None) -> None:
    nats.extra = USERS.format("app")
    nats.reload()
    run = start(f"nats://app:pw@{nats.address}", HEADRACE_NATS_REFUSED_FOR=None if seconds is None else str(seconds))
    run.until(run.ready, "not ready")
    nats.extra = USERS.format("somebody")
    nats.reload()
    begun = time.monotonic()
    assert run.exit_code(within=150) == 4
    print(f"ended {time.monotonic() - begun:.1f} s after the credentials were revoked")
    assert "refused the connection" in run.text()
    assert "Check the credentials" in run.text()


@times(5)
def test_replaced_certificates_are_taken_and_nothing_is_lost(
    start_nats: Callable[..., Nats], start: Start, times: int
) -> None:
    nats = start_nats(tls="mutual")
    run = start(nats.url)
    run.until(run.ready, "not ready")
    with Steady(nats.url, run, rounds=40 * times) as publisher:
        recovers(run, "the start")
        for number in range(times):
            shutil.rmtree(nats.tls_folder)
            nats.reload()  # makes an authority, a server's and a client's certificate anew
            nats.restart()
            run.until(lambda number=number: run.metric("source_reconnects_total") > number, "not connected anew")
            recovers(run, "every certificate was replaced")
    all_is_well(run, publisher.events)


def test_a_certificate_that_is_not_trusted_ends_the_app_with_4(
    start_nats: Callable[..., Nats], start: Start, tmp_path: Path
) -> None:
    nats = start_nats(tls="server")
    trusted = tmp_path / "trusted.pem"
    shutil.copy(nats.tls_folder / "authority.pem", trusted)
    run = start(f"tls://{nats.address}?tls_ca={trusted}", HEADRACE_NATS_REFUSED_FOR="2")
    run.until(run.ready, "not ready")
    shutil.rmtree(nats.tls_folder)
    nats.reload()
    nats.restart()
    assert run.exit_code(within=90) == 4
    assert "Check the credentials and the TLS files" in run.text()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk for a server's data."""
    try:
        made = SmallDisk(tmp_path / "disk", 24 << 20)
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield made
    made.close()


@times(3)
def test_a_full_disk_is_waited_for_and_nothing_is_lost(
    disk: SmallDisk, start_nats: Callable[..., Nats], start: Start, times: int
) -> None:
    """nats-server marks a stream that it could not write and answers nothing for it until it is started again."""
    nats = start_nats(folder=disk.folder / "nats")
    events = 800 * times
    run = start(nats.url, app="forwarding", WORK="0.05")
    publish(run, orders(events, 10))
    for number in range(1, times + 1):
        run.until_handled(800 * number - 600)
        disk.fill()
        logged(run, "handler bill waits for its sink", times=number)
        assert "waits for its sink" in json.loads(run.get("/readyz")[1])["handlers"]["bill"]["detail"]
        disk.clear()
        nats.restart()
        recovers(run, "there was room again")
    all_is_well(run, events)
    stored = ask(nats.url, "STREAM.INFO.invoice", {"subjects_filter": ">"})["state"]["messages"]
    assert stored >= events
