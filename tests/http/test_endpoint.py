"""The endpoint sink against a real server on loopback, and the addresses that it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from typing import Any

import pytest

from headrace import App, Event
from headrace.cloudevents import http as binding_http
from headrace.engine.sink import Publication, Published
from headrace.errors import ConfigurationError, ConnectionFailed, PublishFailed, RefusedError
from headrace.http import Endpoint, Receiver
from headrace.http.addresses import is_public, resolve
from headrace.http.endpoint import EndpointSink
from headrace.http.server import Server
from tests.http.answering import EVENT as HEADERS
from tests.http.answering import Mounted

EVENT = Event(type="order.created", source="/shop", id="1", data={"a": 1}, subject="ü")
Answer = tuple[int, list[tuple[bytes, bytes]]]


class Target:
    """What the sink calls: answers from a list, and remembers the requests."""

    def __init__(self, *answers: Answer | int) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[dict[str, Any], bytes]] = []
        self.hold: asyncio.Event | None = None
        self.now = self.most = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        self.requests.append((scope, body))
        self.now += 1
        self.most = max(self.most, self.now)
        if self.hold is not None:
            await self.hold.wait()
        self.now -= 1
        answer = self.answers.pop(0) if self.answers else 204
        status, headers = (answer, []) if isinstance(answer, int) else answer
        await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def target(*answers: Answer | int, **settings: Any) -> AsyncIterator[tuple[Target, EndpointSink]]:
    application = Target(*answers)
    server = Server(application, "127.0.0.1", 0)
    await server.open()
    host, port = server.address
    sink = Endpoint(f"http://{host}:{port}/in?x=1", allow_private=True, **settings).sink(None)
    await sink.open()
    try:
        yield application, sink
    finally:
        await sink.close()
        await server.close(grace=0.1)


async def one(sink: EndpointSink, publication: Publication | None = None) -> Published | Exception:
    [result] = await sink.publish([publication or Publication(EVENT)])
    return result


async def test_a_2xx_confirms_and_the_event_arrives_whole() -> None:
    async with target(202) as (application, sink):
        assert isinstance(await one(sink), Published)
        scope, body = application.requests[0]
        assert (scope["method"], scope["path"], scope["query_string"]) == ("POST", "/in", b"x=1")
        assert binding_http.decode(scope["headers"], body) == [EVENT]


async def test_structured_mode_is_sent_on_request() -> None:
    async with target(mode="structured") as (application, sink):
        await one(sink)
        scope, body = application.requests[0]
        assert dict(scope["headers"])[b"content-type"].startswith(b"application/cloudevents+json")
        assert binding_http.decode(scope["headers"], body)[0].data == {"a": 1}


@pytest.mark.parametrize("data", [None, b"", b"\x00"], ids=["none", "empty", "without a type"])
async def test_a_request_always_has_a_payload_and_its_type(data: bytes | None) -> None:
    event = Event(type="t", source="/", data=data)
    async with target() as (application, sink):
        await one(sink, Publication(event))
        scope, body = application.requests[0]
        assert dict(scope["headers"])[b"content-type"] == b"application/cloudevents+json"
        assert binding_http.decode(scope["headers"], body) == [event]


async def test_data_that_cannot_be_encoded_is_final() -> None:
    async with target() as (application, sink):
        result = await one(sink, Publication(Event(type="t", source="/", data=object())))
        assert isinstance(result, PublishFailed)
        assert not result.transient
        assert application.requests == []


async def test_the_key_becomes_the_partitionkey_and_hop_headers_are_sent() -> None:
    async with target(headers={"Authorization": "Bearer x"}) as (application, sink):
        await one(sink, Publication(EVENT, key="c-1", headers=(("traceparent", "00-a-b-01"),)))
        headers = dict(application.requests[0][0]["headers"])
        assert headers[b"ce-partitionkey"] == b"c-1"
        assert headers[b"traceparent"] == b"00-a-b-01"
        assert headers[b"authorization"] == b"Bearer x"


@pytest.mark.parametrize("status", [404, 408, 409, 425, 429, 500, 502, 503, 504])
async def test_what_waiting_may_mend_is_transient(status: int) -> None:
    async with target(status) as (_, sink):
        failure = await one(sink)
        assert isinstance(failure, PublishFailed)
        assert failure.transient


@pytest.mark.parametrize("status", [400, 401, 403, 405, 410, 413, 415, 422])
async def test_what_no_repetition_mends_is_final(status: int) -> None:
    async with target(status) as (_, sink):
        failure = await one(sink)
        assert isinstance(failure, PublishFailed)
        assert not failure.transient


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda: "7", (7.0, 7.0)),
        (lambda: formatdate(time.time() + 30, usegmt=True), (25.0, 31.0)),
        (lambda: formatdate(time.time() - 30, usegmt=True), (0.0, 0.0)),
        (lambda: "999999999", (3600.0, 3600.0)),
    ],
)
async def test_retry_after_is_read_as_seconds_or_date(value: Callable[[], str], expected: tuple[float, float]) -> None:
    async with target((503, [(b"retry-after", value().encode())])) as (_, sink):
        failure = await one(sink)
        assert isinstance(failure, PublishFailed)
        assert failure.retry_after is not None
        assert expected[0] <= failure.retry_after <= expected[1]


async def test_a_retry_after_that_is_neither_is_ignored() -> None:
    async with target((503, [(b"retry-after", b"soon")])) as (_, sink):
        failure = await one(sink)
        assert isinstance(failure, PublishFailed)
        assert failure.retry_after is None


async def test_redirects_are_not_followed() -> None:
    async with target((307, [(b"location", b"/elsewhere")])) as (application, sink):
        failure = await one(sink)
        assert isinstance(failure, PublishFailed)
        assert not failure.transient
        assert "redirect" in str(failure)
        assert len(application.requests) == 1


async def test_a_result_belongs_to_each_publication() -> None:
    async with target(204, 400, 204, connections=1) as (_, sink):
        results = await sink.publish([Publication(EVENT)] * 3)
        assert [isinstance(result, Published) for result in results] == [True, False, True]


async def test_no_more_requests_than_connections_run_at_once() -> None:
    async with target(connections=2) as (application, sink):
        application.hold = asyncio.Event()
        publishing = asyncio.create_task(sink.publish([Publication(EVENT)] * 5))
        while len(application.requests) < 2:
            await asyncio.sleep(0)
        application.hold.set()
        await publishing
        assert application.most <= 2


async def test_a_server_that_does_not_answer_is_transient() -> None:
    async with target(timeout=0.1) as (application, sink):
        application.hold = asyncio.Event()
        failure = await one(sink)
        assert isinstance(failure, PublishFailed)
        assert failure.transient
        application.hold.set()


async def test_a_server_that_is_away_is_transient_and_comes_back() -> None:
    async with target() as (_, sink):
        await sink.close()
        failure = await one(sink)
        assert isinstance(failure, PublishFailed)
        assert failure.transient
        await sink.open()
        assert isinstance(await one(sink), Published)


async def test_a_refused_connection_is_transient_and_names_no_query() -> None:
    server = Server(Target(), "127.0.0.1", 0)
    await server.open()
    port = server.address[1]
    await server.close()
    sink = Endpoint(f"http://127.0.0.1:{port}/?access_token=s3cret", allow_private=True).sink(None)
    await sink.open()
    failure = await one(sink)
    await sink.close()
    assert isinstance(failure, PublishFailed)
    assert failure.transient
    assert "s3cret" not in str(failure)


# Addresses


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.5.4",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fe80::1]",
        "[fd00::1]",
        "[64:ff9b::7f00:1]",
        "localhost",
    ],
)
async def test_private_and_link_local_addresses_are_refused(host: str) -> None:
    with pytest.raises(RefusedError, match="allow_private"):
        await Endpoint(f"http://{host}/").sink(None).open()


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::808:808"])
def test_public_addresses_pass(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["224.0.0.1", "240.0.0.1", "ff02::1", "2002:7f00:1::", "::", "192.0.2.1"])
def test_addresses_that_are_no_hosts_do_not_pass(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


async def test_a_name_that_turns_private_later_is_refused_at_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Endpoint("http://public.test/").sink(None)
    answers = ["93.184.216.34", "127.0.0.1"]
    loop = asyncio.get_running_loop()

    async def getaddrinfo(host: str, port: int, **named: Any) -> list[Any]:
        return [(2, 1, 6, "", (answers.pop(0), port))]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    await sink.open()
    failure = await one(sink)
    await sink.close()
    assert isinstance(failure, PublishFailed)
    assert not failure.transient
    assert "127.0.0.1" in str(failure)


async def test_a_name_that_does_not_resolve_cannot_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(host: str, port: int, **named: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with pytest.raises(ConnectionFailed, match=r"nowhere\.test"):
        await resolve("nowhere.test", 80, allow_private=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"url": "ftp://host/"},
        {"url": "http://"},
        {"url": "http://host:port/"},
        {"url": "http://user:pw@host/"},
        {"url": "http://host/", "mode": "batched"},
        {"url": "http://host/", "timeout": 0},
        {"url": "http://host/", "connections": 0},
    ],
)
def test_an_endpoint_that_cannot_be_is_refused_when_it_is_declared(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Endpoint(**arguments)
    assert "pw" not in str(caught.value)


# From an app


@pytest.mark.parametrize("value", ["1", "date"])
async def test_a_handlers_output_waits_as_long_as_retry_after_says(value: str) -> None:
    text = formatdate(time.time() + 3, usegmt=True) if value == "date" else value
    async with target((503, [(b"retry-after", text.encode())]), 204) as (application, sink):
        app = App("shop", store="memory://")
        times: list[float] = []
        loop = asyncio.get_running_loop()
        declared = sink.endpoint

        @app.on(Receiver("/in"), publishes=declared, timeout=20)
        async def bill(event: Event) -> dict[str, int]:
            times.append(loop.time())
            return {"a": 1}

        async with app.running() as worker:
            (source,) = worker.receivers
            reply = await Mounted(source).call("POST", "/in", {**HEADERS}, b"{}")
        assert reply is not None
        assert (reply.status, len(application.requests), len(times)) == (204, 2, 1)
        assert loop.time() - times[0] >= 0.9


async def test_a_sender_does_not_wait_for_a_sink_that_asks_for_long_patience() -> None:
    async with target((503, [(b"retry-after", b"60")])) as (_, sink):
        app = App("shop", store="memory://", drain=0.1)

        @app.on(Receiver("/in"), publishes=sink.endpoint)
        async def bill(event: Event) -> dict[str, int]:
            return {"a": 1}

        async with app.running() as worker:
            (source,) = worker.receivers
            async with asyncio.timeout(30):
                reply = await Mounted(source).call("POST", "/in", {**HEADERS}, b"{}")
        assert reply is not None
        assert (reply.status, reply.headers["retry-after"]) == (503, "60")


async def test_a_program_that_only_publishes_ends_without_an_open_client() -> None:
    async with target(503) as (_, sink):
        program = (
            "import asyncio\nfrom headrace import App\nfrom headrace.http import Endpoint\n"
            "app = App('shop', store='memory://')\n"
            f"asyncio.run(app.publish(Endpoint({sink.endpoint.target.url!r}, allow_private=True), {{}}, type='t'))\n"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stderr=asyncio.subprocess.PIPE)
        _, errors = await process.communicate()
    assert b"answered 503: it does not take events now" in errors
    assert b"tried again" not in errors
    assert b"Unclosed" not in errors
