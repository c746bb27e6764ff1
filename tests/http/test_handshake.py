"""The webhook validation handshake of a receiver (CloudEvents http-webhook.md, section 4)."""

from __future__ import annotations

from headrace.http import Receiver
from tests.http.answering import serving

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
