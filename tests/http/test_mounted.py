"""The receivers mounted in another ASGI server: the same answers by the same functions, without our own connection."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from headrace import App, Event
from headrace.engine.delivery import ACK, Outcome
from headrace.errors import ConfigurationError, Reject
from headrace.http import Receiver
from headrace.http.asgi import Routes
from headrace.http.source import HttpSource
from tests.http.answering import EVENT, Mounted, answer_all, binding


async def opened(receiver: Receiver) -> HttpSource:
    source = receiver.bind(binding())
    assert isinstance(source, HttpSource)
    await source.open()
    return source


async def test_a_mounted_receiver_gives_the_same_answers() -> None:
    source = await opened(Receiver("/events"))
    routes = Routes()
    routes.add(source)
    outcomes = iter([ACK, Outcome("dead", error=Reject("no")), Outcome("retry", error=ValueError())])
    loop = asyncio.create_task(answer_all(source, lambda delivery: next(outcomes), []))
    mounted = Mounted(routes)
    statuses = [reply.status for _ in range(3) if (reply := await mounted.call("POST", "/events", EVENT, b"{}"))]
    assert statuses == [204, 422, 503]
    for method, path, headers, status in (
        ("GET", "/events", EVENT, 405),
        ("POST", "/nowhere", EVENT, 404),
        ("POST", "/events", {"content-type": "a/b"}, 415),
    ):
        reply = await mounted.call(method, path, headers)
        assert reply is not None
        assert reply.status == status
        assert msgspec.json.decode(reply.body)["status"] == status
    await source.close()
    await loop


async def test_a_body_in_parts_is_read_up_to_the_limit() -> None:
    source = await opened(Receiver("/events", max_body=100))
    loop = asyncio.create_task(answer_all(source, lambda delivery: ACK, []))
    mounted = Mounted(source)
    for size, status in ((100, 204), (101, 413)):
        reply = await mounted.call("POST", "/events", EVENT, b"x" * size, parts=7)
        assert reply is not None
        assert reply.status == status
    await source.close()
    await loop


async def test_a_disconnect_voids_the_delivery_and_nothing_is_sent() -> None:
    source = await opened(Receiver("/events"))
    seen: list = []  # type: ignore[type-arg]
    loop = asyncio.create_task(answer_all(source, lambda delivery: None, seen))
    gone = asyncio.Event()
    call = asyncio.create_task(Mounted(source).call("POST", "/events", EVENT, b"{}", gone=gone))
    while not seen:
        await asyncio.sleep(0)
    gone.set()
    assert await call is None
    assert seen[0].voided == "the client closed its request"
    await source.close()
    await loop


async def test_a_cancelled_request_voids_the_delivery() -> None:
    source = await opened(Receiver("/events"))
    seen: list = []  # type: ignore[type-arg]
    loop = asyncio.create_task(answer_all(source, lambda delivery: None, seen))
    call = asyncio.create_task(Mounted(source).call("POST", "/events", EVENT, b"{}"))
    while not seen:
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert seen[0].voided is not None
    await source.close()
    await loop


async def test_a_mount_prefix_is_taken_off() -> None:
    source = await opened(Receiver("/events"))
    routes = Routes()
    routes.add(source)
    loop = asyncio.create_task(answer_all(source, lambda delivery: ACK, []))
    reply = await Mounted(routes).call("POST", "/api/events", EVENT, b"{}", root_path="/api")
    assert reply is not None
    assert reply.status == 204
    await source.close()
    await loop


async def test_lifespan_events_are_answered() -> None:
    sent: list[str] = []
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> dict[str, str]:
        return incoming.pop(0)

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    await Routes()({"type": "lifespan"}, receive, send)  # type: ignore[arg-type]
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_two_receivers_on_one_path_are_refused() -> None:
    routes = Routes()
    routes.add(await opened(Receiver("/events")))
    with pytest.raises(ConfigurationError, match="/events"):
        routes.add(await opened(Receiver("/events")))


async def test_a_failure_inside_the_receiver_is_a_500_that_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        path = "/events"
        name = "http:/events"
        receiver = Receiver("/events")

        async def __call__(self, scope: object, receive: object, send: object) -> None:
            raise RuntimeError("inner secret")

        def drain(self) -> None:
            return None

    routes = Routes()
    routes.add(Broken())
    reply = await Mounted(routes).call("POST", "/events?access_token=topsecret", EVENT)
    assert reply is not None
    assert reply.status == 404  # the scope's path never holds a query
    reply = await Mounted(routes).call("POST", "/events", EVENT)
    assert reply is not None
    assert reply.status == 500
    assert b"inner" not in reply.body
    assert "/events" in caplog.text


@pytest.mark.parametrize(
    ("root_path", "path", "status"),
    [
        ("/hooks", "/hooks/events", 204),
        ("/hooks/", "/hooks/events", 204),
        ("/hooks", "/events", 204),
        ("/hooks", "/hooks", 204),
        ("/hook", "/hooks/events", 404),
        ("/hooks", "/hooks/hooks/events", 404),
        ("", "/hooks/events", 404),
        ("/hooks", "/hooks/old", 410),
    ],
)
async def test_a_path_is_looked_up_below_the_mount(root_path: str, path: str, status: int) -> None:
    app = App("shop", store="memory://")

    @app.on(Receiver("/events", retired=["/old"]))
    async def received(event: Event) -> None:
        return None

    @app.on(Receiver("/"))
    async def root(event: Event) -> None:
        return None

    async with app.running():
        reply = await Mounted(app.asgi).call("POST", path, EVENT, b"{}", root_path=root_path)
    assert reply is not None
    assert reply.status == status


async def test_an_app_that_no_lifespan_has_reached_says_so() -> None:
    app = App("shop", store="memory://")

    @app.on(Receiver("/events"))
    async def received(event: Event) -> None:
        return None

    mounted = Mounted(app.asgi)
    reply = await mounted.call("POST", "/hooks/events", EVENT, b"{}", root_path="/hooks")
    assert reply is not None
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert "lifespan" in reply.problem["detail"]
    assert "app.running()" in reply.problem["detail"]
    async with app.running():
        reply = await mounted.call("POST", "/hooks/events", EVENT, b"{}", root_path="/hooks")
        assert reply is not None
        assert reply.status == 204
