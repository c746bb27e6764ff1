"""The admin port: what each probe answers in each state, served by the real server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from headrace.engine.source import Progress
from headrace.http.server import Server
from headrace.observe.admin import Admin
from tests.http.answering import Reply, read_reply, request
from tests.observe.state import Handler, KafkaSource, Runtime, Source


class Port:
    def __init__(self, admin: Admin, server: Server) -> None:
        self.admin = admin
        self.server = server

    async def get(self, path: str, method: str = "GET", **headers: str) -> Reply:
        reader, writer = await asyncio.open_connection(*self.server.address)
        writer.write(request(method, path, headers, b""))
        reply = await read_reply(reader, method)
        writer.close()
        return reply

    async def probe(self, path: str) -> tuple[int, Any]:
        reply = await self.get(path)
        assert reply.headers["content-type"] == "application/json"
        return reply.status, msgspec.json.decode(reply.body)


@contextlib.asynccontextmanager
async def admin_port(runtime: Runtime | None = None) -> AsyncIterator[Port]:
    admin = Admin("shop")
    if runtime is not None:
        admin.attach(runtime)
    server = Server(admin, "127.0.0.1", 0, what="admin")
    await server.open()
    try:
        yield Port(admin, server)
    finally:
        await server.close(grace=0.1)
        admin.close()


async def test_before_the_app_has_started_it_is_alive_and_neither_started_nor_ready() -> None:
    async with admin_port() as port:
        assert (await port.probe("/livez"))[0] == 200
        assert (await port.probe("/startupz"))[0] == 503
        status, body = await port.probe("/readyz")
        assert (status, body["reasons"]) == (503, ["the app is starting"])
        assert (await port.get("/metrics")).status == 200


async def test_a_started_app_with_connected_sources_is_ready() -> None:
    lagging = Source("nats:order.created", Progress(connected=True, lag_events=3, owner=True))
    async with admin_port(Runtime(Handler("bill", lagging))) as port:
        assert (await port.probe("/startupz"))[0] == 200
        status, body = await port.probe("/readyz")
        assert (status, body["status"]) == (200, "ready")
        assert body["handlers"]["bill"]["sources"] == [
            {"name": "nats:order.created", "connected": True, "owner": True, "lag_events": 3}
        ]


async def test_what_a_consumer_group_tells_is_shown_with_its_source() -> None:
    lagging = KafkaSource(
        "kafka:order.created", Progress(connected=True, lag_seconds=1.23456), rebalances=4, poll_age=0.5
    )
    async with admin_port(Runtime(Handler("bill", lagging))) as port:
        _, body = await port.probe("/readyz")
        (source,) = body["handlers"]["bill"]["sources"]
        assert source | {"lag_seconds": 1.235, "rebalances": 4, "poll_age_seconds": 0.5} == source


async def test_a_lost_connection_makes_it_unready_and_leaves_it_alive() -> None:
    away = Source("nats:order.created", Progress(connected=False, detail="reconnecting since 12:00"))
    async with admin_port(Runtime(Handler("bill", away))) as port:
        status, body = await port.probe("/readyz")
        assert status == 503
        assert body["reasons"] == ["handler bill: source nats:order.created is not connected: reconnecting since 12:00"]
        assert (await port.probe("/livez"))[0] == 200
        assert (await port.probe("/startupz"))[0] == 200


async def test_a_draining_app_is_not_ready() -> None:
    runtime = Runtime(Handler("bill", Source()))
    runtime.draining = True
    async with admin_port(runtime) as port:
        status, body = await port.probe("/readyz")
        assert (status, body["reasons"]) == (503, ["the app is draining"])
        assert (await port.probe("/livez"))[0] == 200


async def test_what_holds_a_handler_up_is_told_in_words() -> None:
    handler = Handler("bill", Source())
    handler.detail = "the budget for parked deliveries is used up by key c-7"
    handler.paused = True
    async with admin_port(Runtime(handler)) as port:
        status, body = await port.probe("/readyz")
        assert status == 200
        assert body["handlers"]["bill"]["detail"] == handler.detail
        assert body["handlers"]["bill"]["paused"] is True


async def test_metrics_are_served_as_openmetrics_on_request() -> None:
    async with admin_port(Runtime(Handler("bill", Source()))) as port:
        reply = await port.get("/metrics", accept="application/openmetrics-text; version=1.0.0")
        assert reply.headers["content-type"].startswith("application/openmetrics-text")
        reply = await port.get("/metrics")
        assert reply.headers["content-type"].startswith("text/plain")
        assert b'headrace_events_inflight{handler="bill"} 0.0' in reply.body


async def test_dead_letters_are_counted_at_the_scrape_and_not_at_every_one() -> None:
    runtime = Runtime(Handler("bill", Source()), Handler("ship", Source()))
    runtime.dead_letters.found = {"bill": (2, 1.0)}
    async with admin_port(runtime) as port:
        for _ in range(3):
            body = (await port.get("/metrics")).body
        assert b'headrace_dlq_events{handler="bill"} 2.0' in body
        assert b'headrace_dlq_events{handler="ship"} 0.0' in body
        assert runtime.dead_letters.asked == 1


async def test_a_store_that_cannot_count_does_not_stop_the_scrape() -> None:
    runtime = Runtime(Handler("bill", Source()))
    runtime.dead_letters.failure = OSError("disk")
    async with admin_port(runtime) as port:
        assert (await port.get("/metrics")).status == 200


async def test_the_admin_port_controls_nothing_and_serves_nothing_else() -> None:
    async with admin_port(Runtime()) as port:
        reply = await port.get("/livez", "POST")
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
        assert (await port.get("/control/pause")).status == 404
        reply = await port.get("/livez", "HEAD")
        assert (reply.status, reply.body) == (200, b"")


async def test_a_blocked_loop_shows_in_its_lag() -> None:
    admin = Admin("shop")
    admin._timer.cancel()
    loop = asyncio.get_running_loop()
    admin._beat(loop.time() - 0.25)
    admin._timer.cancel()
    assert 0.25 <= admin.loop_lag < 0.5
    admin.close()
