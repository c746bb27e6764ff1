"""What the reflector asks for and when, without a wire: deadlines, delays, and what does not count as life."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from headrace.errors import ConnectionFailed
from headrace.kubernetes import Watch
from headrace.kubernetes.client import Client, _socket
from headrace.kubernetes.kubeconfig import ClusterConfig
from headrace.kubernetes.objects import Bookmark, Object, Page
from headrace.kubernetes.reflector import Present, Reflector, Replaced, Timing
from headrace.kubernetes.status import Status
from tests.kubernetes.scripted import Exchange, Scripted, hang, synced
from tests.kubernetes.watching import Notebook, Watching, told


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def watching(clock: Clock, *, chance: float = 1.0, version: str = "5") -> Reflector:
    """A reflector that has listed and now watches."""
    reflector = Reflector(Timing(), monotonic=clock, chance=lambda: chance, streaming=False)
    reflector.request()
    reflector.page(Page(version, "", [Object("n/a", "u", version, b"{}")]))
    reflector.take()
    reflector.request()
    reflector.opened()
    return reflector


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 300), (0.5, 450), (0.999, 599)])
def test_the_clients_deadline_is_the_servers_timeout_and_half_a_minute(chance: float, seconds: int) -> None:
    reflector = watching(Clock(), chance=chance)
    reflector.broke("")
    request = reflector.request()
    assert dict(request.query)["timeoutSeconds"] == str(seconds)
    assert seconds + 30 <= request.deadline < seconds + 31
    assert request.silence is None  # a quiet watch is left open until then


def test_bookmarks_are_no_heartbeat() -> None:
    clock = Clock()
    reflector = watching(clock)
    reflector.bookmark(Bookmark("9", False))
    clock.now += 0.2
    reflector.ended()
    assert reflector.restarts == {"empty_watch": 1}
    assert "no event" in reflector.trouble
    assert dict(reflector.request().query)["resourceVersion"] == "9"


def test_delays_double_to_half_a_minute_and_begin_anew_after_two_quiet_minutes() -> None:
    clock = Clock()
    reflector = watching(clock)
    delays = []
    for _ in range(8):
        reflector.refused(Status(500, "InternalError"))
        delays.append(reflector.request().delay)
        clock.now += delays[-1]
    assert delays == pytest.approx([0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])
    clock.now += 121
    reflector.refused(Status(500, "InternalError"))
    assert reflector.request().delay == pytest.approx(0.8)


def test_delays_have_full_jitter() -> None:
    delays = set()
    for chance in (0.0, 0.25, 0.75):
        reflector = watching(Clock(), chance=chance)
        reflector.broke("the connection was reset")
        delays.add(round(reflector.request().delay, 3))
    assert delays == {0.0, 0.2, 0.6}


def test_retry_after_wins_over_the_delay() -> None:
    reflector = watching(Clock())
    reflector.refused(Status(429, "TooManyRequests"), retry_after=7.0)
    assert reflector.request().delay == 7.0


def test_a_410_is_followed_by_a_delay_and_a_list_of_the_latest() -> None:
    reflector = watching(Clock())
    reflector.error(Status(410, "Expired"))
    request = reflector.request()
    assert request.delay == pytest.approx(0.8)
    assert (request.watch, dict(request.query)) == (False, {"limit": "500"})


def test_after_too_large_the_list_is_the_truth_even_where_it_is_lower() -> None:
    reflector = watching(Clock(), version="50")
    reflector.error(Status(500, "InternalError"))
    assert dict(reflector.request().query)["resourceVersion"] == "50"
    reflector.refused(Status(504, "Timeout", "Too large resource version: 50, current: 9"))
    request = reflector.request()
    assert (request.delay, dict(request.query)) == (0.0, {"limit": "500"})
    lower = Object("n/a", "u", "8", b"{}")
    reflector.page(Page("9", "", [lower]))
    assert reflector.take() == [Present(lower, True), Replaced({"n/a": "u"}, "9", True)]
    assert dict(reflector.request().query)["resourceVersion"] == "9"


async def test_a_checkpointed_start_asks_for_nothing_older_than_its_checkpoint(tmp_path: Path) -> None:
    async def page(exchange: Exchange) -> None:
        await exchange.page(70, "a")

    async def refused(exchange: Exchange) -> None:
        await exchange.status(422, "Invalid")

    notebook = Notebook()
    async with Scripted(synced(60, "a"), synced(60, "a"), refused, page, hang) as server:
        watch = Watch("configmaps", namespace="n", kubeconfig=server.kubeconfig(tmp_path, token="t"))
        async with Watching(watch, checkpoints=notebook) as seen:
            await seen.until(told("a", "add"))
        for _ in range(2):  # streamed, then in pages
            async with Watching(watch, checkpoints=notebook) as seen:
                await seen.ready()
    first, streamed, _, paged = server.asked[:4]
    assert "resourceVersion" not in first
    for query in (streamed, paged):
        assert (query["resourceVersion"], query["resourceVersionMatch"]) == ("60", "NotOlderThan")


def test_sockets_notice_a_dead_peer_by_themselves() -> None:
    made = _socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1)))
    try:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, interval, count = (
            made.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count <= 30
    finally:
        made.close()


async def test_a_server_that_never_finishes_the_handshake_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.kubernetes.client._CONNECT", 0.2)
    held: list[asyncio.StreamWriter] = []

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    client = Client(ClusterConfig(server=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    with pytest.raises(ConnectionFailed, match="timed out"):
        await client.request("GET", "/api")
    await client.close()
    server.close()
    for writer in held:
        writer.close()
