"""The webhook validation handshake of a receiver (CloudEvents http-webhook.md, section 4)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from headrace.http import Receiver
from headrace.http.grants import AT_ONCE
from tests.http.answering import serving
from tests.servers.certificates import make_certificates

ASK = {"webhook-request-origin": "eventemitter.example.com", "webhook-request-rate": "120"}


async def test_an_allowed_origin_gets_consent_and_the_smaller_rate() -> None:
    receiver = Receiver("/events", allowed_origins=["eventemitter.example.com"], allowed_rate=100)
    async with serving(receiver=receiver) as served:
        reply = await served.call("OPTIONS", "/events", ASK)
        assert reply.status == 200
        assert reply.headers["webhook-allowed-origin"] == "eventemitter.example.com"
        assert reply.headers["webhook-allowed-rate"] == "100"
        assert reply.headers["allow"] == "POST, OPTIONS"


async def test_an_origin_that_only_resembles_an_allowed_one_gets_no_consent() -> None:
    async with serving(receiver=Receiver("/events", allowed_origins=["example.com"])) as served:
        for origin in ("eventemitter.example.com", "EXAMPLE.COM", "example.com.evil", "xexample.com"):
            reply = await served.call("OPTIONS", "/events", {"webhook-request-origin": origin})
            assert "webhook-allowed-origin" not in reply.headers


async def test_without_allowed_origins_nobody_gets_consent() -> None:
    async with serving() as served:
        assert "webhook-allowed-origin" not in (await served.call("OPTIONS", "/events", ASK)).headers


async def test_a_star_allows_every_origin() -> None:
    async with serving(receiver=Receiver("/events", allowed_origins=["*"])) as served:
        reply = await served.call("OPTIONS", "/events", ASK)
        assert reply.headers["webhook-allowed-origin"] == "eventemitter.example.com"
        assert reply.headers["webhook-allowed-rate"] == "120"


async def test_a_plain_options_request_names_the_methods() -> None:
    async with serving() as served:
        reply = await served.call("OPTIONS", "/events")
        assert (reply.status, reply.headers["allow"]) == (200, "POST, OPTIONS")


async def test_a_rate_that_is_none_is_a_400() -> None:
    async with serving(receiver=Receiver("/events", allowed_origins=["*"])) as served:
        reply = await served.call("OPTIONS", "/events", {**ASK, "webhook-request-rate": "fast"})
        assert reply.status == 400


# By callback


@contextlib.asynccontextmanager
async def sender(folder: Path, monkeypatch: pytest.MonkeyPatch, *statuses: int) -> AsyncIterator[Sender]:
    """A sender's callback over TLS, whose authority is the process's; it answers with these statuses, then 200."""
    certificates = make_certificates(folder)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    monkeypatch.setattr("headrace.http.grants.PAUSES", (0.0, 0.0, 0.0))
    requests: asyncio.Queue[web.BaseRequest] = asyncio.Queue()
    answers = list(statuses)

    async def answer(request: web.BaseRequest) -> web.Response:
        requests.put_nowait(request)
        return web.Response(status=answers.pop(0) if answers else 200, headers={"location": "https://localhost/other"})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server_certificate, certificates.server_key)
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield Sender(f"https://localhost:{port}/confirm?id=1&key=s3cret", requests)
    finally:
        await runner.cleanup()


@dataclass
class Sender:
    callback: str
    requests: asyncio.Queue[web.BaseRequest]


def by_callback(**named: Any) -> Receiver:
    return Receiver(
        "/events", allowed_origins=["eventemitter.example.com"], callback_hosts=["localhost"], allowed_rate=100, **named
    )


async def test_a_callback_gets_the_consent_that_the_answer_withholds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sender(tmp_path, monkeypatch, 500, 302) as asking, serving(receiver=by_callback()) as served:
        reply = await served.call("OPTIONS", "/events", {**ASK, "webhook-request-callback": asking.callback})
        assert (reply.status, reply.headers["allow"]) == (200, "POST, OPTIONS")
        assert "webhook-allowed-origin" not in reply.headers
        assert "webhook-allowed-rate" not in reply.headers
        for _ in range(3):
            request = await asyncio.wait_for(asking.requests.get(), 30)
            assert (request.method, request.path_qs) == ("POST", "/confirm?id=1&key=s3cret")
            assert request.headers["WebHook-Allowed-Origin"] == "eventemitter.example.com"
            assert request.headers["WebHook-Allowed-Rate"] == "100"


async def test_a_callback_that_fails_is_told_without_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with sender(tmp_path, monkeypatch, 500, 500, 500) as asking, serving(receiver=by_callback()) as served:
        await served.call("OPTIONS", "/events", {**ASK, "webhook-request-callback": asking.callback})
        for _ in range(3):
            await asyncio.wait_for(asking.requests.get(), 30)
        while "status 500" not in caplog.text:
            await asyncio.sleep(0.01)
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    ("origin", "callback", "consents"),
    [
        ("somebody.else", "https://localhost:1/confirm", False),
        ("eventemitter.example.com", "https://other.example/confirm", True),
    ],
)
async def test_other_origins_and_other_hosts_are_never_called(origin: str, callback: str, consents: bool) -> None:
    async with serving(receiver=by_callback()) as served:
        asked = {"webhook-request-origin": origin, "webhook-request-callback": callback}
        reply = await served.call("OPTIONS", "/events", asked)
        assert ("webhook-allowed-origin" in reply.headers) is consents
        assert not served.source.grants._tasks


async def test_callbacks_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.http.grants.PAUSES", (3600.0,))
    async with serving(receiver=by_callback()) as served:
        for _ in range(AT_ONCE + 2):
            await served.call("OPTIONS", "/events", {**ASK, "webhook-request-callback": "https://localhost:1/"})
        assert len(served.source.grants._tasks) == AT_ONCE
