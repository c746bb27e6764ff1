"""An app's receiver end to end: server, source, engine, ledger, handler, answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from headrace import App, Drop, Event, Reject, Retry, RetryAfter, exponential
from headrace.cloudevents import http as binding_http
from headrace.http import Receiver
from headrace.http.asgi import Routes
from headrace.http.server import Server
from tests.http.answering import EVENT, Reply, read_reply, request


class Order(msgspec.Struct):
    id: str
    amount: float


class Running:
    def __init__(self, server: Server) -> None:
        self.server = server

    async def post(self, body: bytes = b"{}", path: str = "/events", **headers: str) -> Reply:
        reader, writer = await asyncio.open_connection(*self.server.address)
        writer.write(request("POST", path, {**EVENT, **{k.replace("_", "-"): v for k, v in headers.items()}}, body))
        reply = await read_reply(reader)
        writer.close()
        return reply


@contextlib.asynccontextmanager
async def running(app: App) -> AsyncIterator[Running]:
    routes = Routes()
    server = Server(routes, "127.0.0.1", 0)
    async with app.running() as worker:
        for source in worker.receivers:
            routes.add(source)
        await server.open()
        try:
            yield Running(server)
        finally:
            routes.drain()
            server.stop()
    await server.close(grace=1.0)


def shop() -> App:
    return App("shop", store="memory://")


async def test_the_answer_follows_what_the_handler_did() -> None:
    app = shop()
    calls: list[str] = []

    @app.on(Receiver("/events"))
    async def received(order: Order, event: Event) -> dict[str, float] | None:
        calls.append(event.id)
        if event.id == "reject":
            raise Reject("negative amount")
        if event.id == "later":
            raise RetryAfter(9)
        if event.id == "drop":
            raise Drop("not ours")
        if event.id == "fail":
            raise ValueError("boom")
        return {"total": order.amount} if event.id == "reply" else None

    order = b'{"id": "o-1", "amount": 2.5}'
    async with running(app) as served:
        assert (await served.post(order, ce_id="quiet")).status == 204
        reply = await served.post(order, ce_id="reply")
        assert reply.status == 200
        [answer] = binding_http.decode(list(reply.headers.items()), reply.body)
        assert answer.data == {"total": 2.5}
        assert (await served.post(order, ce_id="reject")).problem["detail"] == "negative amount"
        assert (await served.post(order, ce_id="drop")).status == 204
        assert (await served.post(order, ce_id="fail")).status == 503
        reply = await served.post(order, ce_id="later")
        assert (reply.status, reply.headers["retry-after"]) == (503, "9")
        assert len(calls) == 6


async def test_a_duplicate_of_a_finished_event_is_a_204_and_is_not_handled_again() -> None:
    app = shop()
    calls: list[str] = []

    @app.on(Receiver("/events"))
    async def received(event: Event) -> None:
        calls.append(event.id)

    async with running(app) as served:
        assert [(await served.post()).status for _ in range(2)] == [204, 204]
        assert calls == ["1"]


async def test_a_failed_event_is_handled_when_its_sender_repeats_it() -> None:
    app = shop()
    calls: list[str] = []

    @app.on(Receiver("/events"))
    async def received(event: Event) -> None:
        calls.append(event.id)
        if len(calls) == 1:
            raise ValueError("boom")

    async with running(app) as served:
        assert [(await served.post()).status for _ in range(2)] == [503, 204]


async def test_data_that_is_not_what_the_handler_takes_is_a_400_with_the_reason() -> None:
    app = shop()

    @app.on(Receiver("/events"))
    async def received(order: Order) -> None: ...

    async with running(app) as served:
        reply = await served.post(b'{"id": 7}')
        assert reply.status == 400
        assert reply.problem["detail"]


async def test_a_filtered_and_an_expired_event_are_204() -> None:
    app = shop()
    calls: list[str] = []

    @app.on(Receiver("/events"), filters=[{"prefix": {"type": "order."}}])
    async def received(event: Event) -> None:
        calls.append(event.id)

    async with running(app) as served:
        assert (await served.post(ce_type="other")).status == 204
        assert (await served.post(ce_expirytime="2020-01-01T00:00:00Z")).status == 204
        assert calls == []


@pytest.mark.parametrize("key", [None, "id"])
async def test_many_requests_at_once_are_each_answered(key: str | None) -> None:
    app = shop()
    most = running_now = 0

    @app.on(Receiver("/events"), key=key, concurrency=4)
    async def received(order: Order) -> dict[str, str]:
        nonlocal most, running_now
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0)
        running_now -= 1
        return {"id": order.id}

    async with running(app) as served:
        bodies = [msgspec.json.encode(Order(f"o-{number % 3}", 1.0)) for number in range(15)]
        replies = await asyncio.gather(*(served.post(body, ce_id=f"e-{n}") for n, body in enumerate(bodies)))
        assert [msgspec.json.decode(reply.body)["id"] for reply in replies] == [f"o-{n % 3}" for n in range(15)]
        assert most <= 4


async def test_a_client_that_goes_away_cancels_its_attempt_and_the_event_can_come_again() -> None:
    app = shop()
    started, cancelled = asyncio.Event(), asyncio.Event()
    attempts = 0

    @app.on(Receiver("/events"))
    async def received(event: Event) -> None:
        nonlocal attempts
        attempts += 1
        if attempts > 1:
            return
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with running(app) as served:
        _, writer = await asyncio.open_connection(*served.server.address)
        writer.write(request("POST", "/events", EVENT, b"{}"))
        await started.wait()
        writer.transport.abort()
        await cancelled.wait()
        assert (await served.post()).status == 204
        assert attempts == 2


async def test_what_is_in_flight_when_the_app_stops_is_answered_and_what_comes_later_is_not_taken() -> None:
    app = shop()
    started, release = asyncio.Event(), asyncio.Event()

    @app.on(Receiver("/events"))
    async def received(event: Event) -> None:
        started.set()
        await release.wait()

    async with running(app) as served:
        answer = asyncio.create_task(served.post())
        await started.wait()
        asyncio.get_running_loop().call_later(0.05, release.set)
    assert (await answer).status == 204


async def test_two_receivers_of_one_app_are_two_handlers() -> None:
    app = shop()
    seen: list[str] = []

    @app.on(Receiver("/a"))
    async def first(event: Event) -> None:
        seen.append("first")

    @app.on(Receiver("/b"))
    async def second(event: Event) -> None:
        seen.append("second")

    async with running(app) as served:
        for path in ("/b", "/a"):
            assert (await served.post(path=path)).status == 204
        assert seen == ["second", "first"]


async def test_a_durable_receiver_answers_before_the_handler_and_retries_what_fails() -> None:
    app = App("shop", broker="memory://", store="memory://")
    attempts: list[str] = []
    release, handled = asyncio.Event(), asyncio.Event()

    @app.on(Receiver("/events", mode="durable"), retry=Retry(attempts=3, backoff=exponential(initial=0.01)))
    async def received(event: Event) -> None:
        await release.wait()
        attempts.append(event.id)
        if len(attempts) < 3:
            raise ValueError("not yet")
        handled.set()

    async with running(app) as served:
        assert (await served.post(b'{"a": 1}')).status == 202
        assert attempts == []
        release.set()
        await handled.wait()
        assert attempts == ["1", "1", "1"]


async def test_a_rejection_is_told_whatever_its_text_holds() -> None:
    app = App("shop")

    @app.on(Receiver("/events"))
    async def bill(order: Order) -> None:
        raise Reject("caf\udce9")

    async with running(app) as at:
        reply = await at.post(b'{"id": "1", "amount": 1}')
        assert reply.status == 422
        assert msgspec.json.decode(reply.body)["detail"] == r"caf\udce9"


async def test_an_exception_of_a_handler_is_logged_once_with_its_event(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.on(Receiver("/events"))
    async def bill(order: Order) -> None:
        raise RuntimeError("till is open")

    async with running(app) as at:
        assert (await at.post(b'{"id": "1", "amount": 1}')).status == 503
    (record,) = [one for one in caplog.records if "till is open" in one.getMessage()]
    assert record.exc_info is not None
    assert (vars(record)["handler"], vars(record)["event_id"]) == ("bill", EVENT["ce-id"])


async def test_requests_that_hold_no_event_are_counted() -> None:
    app = App("shop")

    @app.on(Receiver("/events"))
    async def bill(order: Order) -> None: ...

    async with app.running() as worker:
        (source,) = worker.receivers
        routes = Routes()
        routes.add(source)
        server = Server(routes, "127.0.0.1", 0)
        await server.open()
        at = Running(server)
        assert (await at.post(ce_specversion="9.9")).status == 400
        assert (await at.post(b"{", content_type="application/cloudevents+json")).status == 400
        assert (await at.post(content_type="application/cloudevents+avro")).status == 415
        assert source.requests.rejected == {"decode": 3}
        routes.drain()
        server.stop()
    await server.close(grace=1.0)
