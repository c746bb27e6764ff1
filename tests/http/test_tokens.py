"""Bearer tokens of a receiver's requests (CloudEvents http-webhook.md, section 3), and paths that are retired."""

from __future__ import annotations

import pytest

from headrace.engine.delivery import Outcome
from headrace.errors import ConfigurationError
from headrace.event import Event
from headrace.http import Receiver
from headrace.http.asgi import Routes
from tests.http.answering import EVENT, Mounted, binding, serving

GUARDED = Receiver("/events", tokens=["first", "second.token"])


@pytest.mark.parametrize("authorization", ["Bearer first", "bearer second.token", "BEARER  first "])
async def test_either_token_in_the_header_lets_an_event_pass(authorization: str) -> None:
    async with serving(receiver=GUARDED) as served:
        reply = await served.post(authorization=authorization)
        assert reply.status == 204
        assert "cache-control" not in reply.headers
        assert len(served.seen) == 1


async def test_a_token_in_the_query_passes_and_its_answer_is_for_no_shared_cache() -> None:
    async with serving(receiver=GUARDED) as served:
        reply = await served.call("POST", "/events?a=b&access_token=second.token", EVENT, b"{}")
        assert (reply.status, reply.headers["cache-control"]) == (204, "private")


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer", "Basic first", "first"])
async def test_without_one_of_the_tokens_it_is_a_401_that_says_how(authorization: str | None) -> None:
    async with serving(receiver=GUARDED) as served:
        reply = await served.post(headers=EVENT if authorization is None else {**EVENT, "authorization": authorization})
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert "first" not in reply.body.decode()
        assert served.seen == []


async def test_a_wrong_token_in_the_query_is_a_401_and_two_tokens_are_a_400() -> None:
    async with serving(receiver=GUARDED) as served:
        assert (await served.call("POST", "/events?access_token=no", EVENT, b"{}")).status == 401
        both = {**EVENT, "authorization": "Bearer first"}
        assert (await served.call("POST", "/events?access_token=first", both, b"{}")).status == 400
        assert served.seen == []


async def test_tokens_are_asked_for_under_another_server_too() -> None:
    routes = Routes()
    routes.add(GUARDED.bind(binding()))
    reply = await Mounted(routes).call("POST", "/events", EVENT, b"{}")
    assert reply is not None
    assert reply.status == 401


def test_tokens_are_not_kept_as_they_are() -> None:
    assert "second.token" not in repr(vars(GUARDED)) + repr(vars(GUARDED.tokens))


async def test_the_handshake_asks_for_no_token() -> None:
    receiver = Receiver("/events", tokens=["t"], allowed_origins=["*"])
    async with serving(receiver=receiver) as served:
        reply = await served.call("OPTIONS", "/events", {"webhook-request-origin": "a.example"})
        assert reply.headers["webhook-allowed-origin"] == "a.example"


async def test_a_retired_path_answers_410() -> None:
    async with serving(receiver=Receiver("/events", retired=["/v1/events"])) as served:
        reply = await served.call("POST", "/v1/events", EVENT, b"{}")
        assert reply.status == 410
        assert reply.problem["detail"]
        assert (await served.call("POST", "/v2/events", EVENT, b"{}")).status == 404


@pytest.mark.parametrize("order", [1, -1])
def test_a_path_is_not_retired_and_served(order: int) -> None:
    routes = Routes()
    first, second = [Receiver("/events", retired=["/old"]), Receiver("/old")][::order]
    routes.add(first.bind(binding()))
    with pytest.raises(ConfigurationError, match="retire"):
        routes.add(second.bind(binding()))


@pytest.mark.parametrize(
    "result",
    [Event(type="t", source="/"), Event(type="t", source="/", data=b"\x00"), Event(type="t", source="/", data=b"")],
    ids=["no data", "no type", "empty"],
)
async def test_a_returned_event_always_comes_with_a_payload_and_its_type(result: Event) -> None:
    async with serving(lambda delivery: Outcome("ack", result=result)) as served:
        reply = await served.post()
        assert (reply.status, reply.headers["content-type"]) == (200, "application/cloudevents+json")
        assert Event.from_json(reply.body) == result
