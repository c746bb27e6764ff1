"""What a sender is told in sync mode: the table of transports.md, through the real server."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import msgspec
import pytest

from headrace import Event
from headrace.cloudevents import http as binding_http
from headrace.engine.delivery import ACK, DROP, HAND_BACK, Delivery, Outcome
from headrace.engine.source import Credit
from headrace.errors import ConfigurationError, Drop, InvalidEvent, Reject, RetryAfter
from headrace.http import Receiver
from headrace.http.source import HttpSource
from tests.http.answering import EVENT, binding, serving

STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCHED = {"content-type": "application/cloudevents-batch+json"}


def json_event(**attributes: object) -> dict[str, object]:
    return {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created", **attributes}


# Content modes


async def test_a_binary_mode_event_arrives_with_its_attributes_and_bytes() -> None:
    async with serving() as served:
        reply = await served.post(b'{"a": 1}', **{"ce-subject": "caf%C3%A9"})
        assert (reply.status, reply.body) == (204, b"")
        event = served.seen[0].event
        assert event is not None
        assert (event.type, event.subject, event.raw) == ("order.created", "café", b'{"a": 1}')


async def test_a_structured_mode_event_arrives() -> None:
    async with serving() as served:
        body = msgspec.json.encode(json_event(data={"a": 1}))
        assert (await served.post(body, STRUCTURED)).status == 204
        event = served.seen[0].event
        assert event is not None
        assert event.data == {"a": 1}


async def test_a_batch_is_answered_when_all_its_events_are_settled() -> None:
    async with serving(lambda delivery: None) as served:
        body = msgspec.json.encode([json_event(id=str(number)) for number in range(3)])
        answer = asyncio.create_task(served.post(body, BATCHED))
        while len(served.seen) < 3:
            await asyncio.sleep(0)
        for delivery in served.seen[:2]:
            served.source.settle(delivery, ACK)
        await asyncio.sleep(0.05)
        assert not answer.done()
        served.source.settle(served.seen[2], ACK)
        assert (await answer).status == 204


async def test_an_empty_batch_is_answered_at_once() -> None:
    async with serving() as served:
        assert (await served.post(b"[]", BATCHED)).status == 204
        assert served.seen == []


# Outcomes


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (ACK, 204),
        (DROP, 204),
        (Outcome("drop", error=Drop("not ours")), 204),
        (Outcome("dead", error=Reject("negative amount")), 422),
        (Outcome("dead", error=InvalidEvent("data is no order")), 400),
        (Outcome("retry", error=ValueError("boom")), 503),
        (Outcome("dead", error=ValueError("boom")), 503),
        (HAND_BACK, 503),
    ],
    ids=lambda value: repr(value),
)
async def test_the_status_follows_the_outcome(outcome: Outcome, status: int) -> None:
    async with serving(lambda delivery: outcome) as served:
        assert (await served.post()).status == status


async def test_a_rejection_tells_its_reason() -> None:
    async with serving(lambda delivery: Outcome("dead", error=Reject("negative amount"))) as served:
        assert (await served.post()).problem["detail"] == "negative amount"


async def test_a_failure_does_not_tell_the_text_of_the_exception() -> None:
    async with serving(lambda delivery: Outcome("retry", error=ValueError("password is hunter2"))) as served:
        assert b"hunter2" not in (await served.post()).body


async def test_a_requested_delay_is_the_retry_after() -> None:
    async with serving(lambda delivery: Outcome("retry", delay=16.2, error=RetryAfter(16.2))) as served:
        assert (await served.post()).headers["retry-after"] == "17"


async def test_a_failure_without_a_delay_still_says_when_to_retry() -> None:
    async with serving(lambda delivery: Outcome("retry", error=ValueError())) as served:
        assert int((await served.post()).headers["retry-after"]) >= 1


async def test_a_returned_event_is_a_200_in_binary_mode() -> None:
    result = Event(type="reply", source="/shop/received", id="r-1", data={"ok": True}, subject="ü")
    async with serving(lambda delivery: Outcome("ack", result=result)) as served:
        reply = await served.post()
        assert reply.status == 200
        [event] = binding_http.decode(list(reply.headers.items()), reply.body)
        assert (event.id, event.subject, event.data) == ("r-1", "ü", {"ok": True})


async def test_a_batch_with_returned_events_is_answered_by_a_batch() -> None:
    def handle(delivery: Delivery) -> Outcome:
        assert delivery.event is not None
        return Outcome("ack", result=Event(type="reply", source="/x", id=f"r-{delivery.event.id}"))

    async with serving(handle) as served:
        body = msgspec.json.encode([json_event(id="1"), json_event(id="2")])
        reply = await served.post(body, BATCHED)
        assert reply.status == 200
        assert [event.id for event in binding_http.decode(list(reply.headers.items()), reply.body)] == ["r-1", "r-2"]


async def test_in_a_batch_a_failure_that_a_repetition_mends_wins_over_a_rejection() -> None:
    outcomes = {
        "1": ACK,
        "2": Outcome("dead", error=Reject("no")),
        "3": Outcome("retry", delay=7, error=RetryAfter(7)),
    }

    def handle(delivery: Delivery) -> Outcome:
        assert delivery.event is not None
        return outcomes[delivery.event.id]

    async with serving(handle) as served:
        reply = await served.post(msgspec.json.encode([json_event(id=key) for key in outcomes]), BATCHED)
        assert (reply.status, reply.headers["retry-after"]) == (503, "7")
        assert [(event["index"], event["status"]) for event in reply.problem["events"]] == [(1, 422), (2, 503)]


async def test_a_batch_of_which_one_event_is_rejected_is_a_422() -> None:
    def handle(delivery: Delivery) -> Outcome:
        assert delivery.event is not None
        return ACK if delivery.event.id == "1" else Outcome("dead", error=Reject("no"))

    async with serving(handle) as served:
        reply = await served.post(msgspec.json.encode([json_event(id="1"), json_event(id="2")]), BATCHED)
        assert reply.status == 422


# Requests that reach no handler


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, b"hello", 415),
        ({"content-type": "application/json"}, b"{}", 415),
        ({"content-type": "application/cloudevents+xml"}, b"<event/>", 415),
        ({"content-type": "application/cloudevents-batch+xml"}, b"<events/>", 415),
        ({name: value for name, value in EVENT.items() if name != "ce-id"}, b"{}", 400),
        ({name: value for name, value in EVENT.items() if name != "ce-specversion"}, b"{}", 400),
        ({**EVENT, "ce-specversion": "9.9"}, b"{}", 400),
        (STRUCTURED, b"{not json", 400),
        (STRUCTURED, b"{}", 400),
        (BATCHED, b"{}", 400),
        (BATCHED, b'[{"specversion": "1.0"}]', 400),
        ({**EVENT, "content-encoding": "br"}, b"{}", 415),
        ({**EVENT, "content-encoding": "gzip"}, b"{}", 400),
    ],
)
async def test_what_is_no_event_is_refused_with_a_reason(headers: dict[str, str], body: bytes, status: int) -> None:
    async with serving() as served:
        reply = await served.post(body, headers)
        assert reply.status == status
        assert reply.problem["detail"]
        assert served.seen == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
async def test_another_method_is_a_405_that_names_the_right_one(method: str) -> None:
    async with serving() as served:
        reply = await served.call(method, "/events", EVENT)
        assert (reply.status, reply.headers["allow"]) == (405, "POST, OPTIONS")


async def test_a_declared_method_brings_events() -> None:
    async with serving(receiver=Receiver("/events", methods=["PUT"])) as served:
        assert (await served.call("PUT", "/events", EVENT)).status == 204
        assert (await served.call("POST", "/events", EVENT)).status == 405


async def test_an_unknown_path_is_a_404() -> None:
    async with serving() as served:
        assert (await served.call("POST", "/other", EVENT)).status == 404


async def test_a_query_does_not_change_the_path() -> None:
    async with serving() as served:
        assert (await served.call("POST", "/events?access_token=abc", EVENT)).status == 204


# Limits


async def test_a_body_over_the_limit_is_a_413_whether_announced_or_chunked() -> None:
    async with serving(receiver=Receiver("/events", max_body=1000)) as served:
        assert (await served.post(b"x" * 1000)).status == 204
        assert (await served.post(b"x" * 1001)).status == 413
        reader, writer = await served.connect()
        head = "".join(f"{name}: {value}\r\n" for name, value in EVENT.items())
        writer.write(f"POST /events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n{head}\r\n".encode())
        for _ in range(11):
            writer.write(b"64\r\n" + b"x" * 100 + b"\r\n")
        assert (await reader.readline()).split()[1] == b"413"
        writer.close()


async def test_a_batch_over_the_limit_is_a_413() -> None:
    async with serving(receiver=Receiver("/events", max_batch=2)) as served:
        body = msgspec.json.encode([json_event(id=str(number)) for number in range(3)])
        assert (await served.post(body, BATCHED)).status == 413
        assert served.seen == []


@pytest.mark.parametrize("headers", [EVENT, STRUCTURED], ids=["binary", "structured"])
async def test_json_nested_too_deeply_is_a_400(headers: dict[str, str]) -> None:
    async with serving(receiver=Receiver("/events", max_depth=10)) as served:
        deep = b"[" * 9 + b"]" * 9
        document = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":%b}'
        assert (await served.post(deep if headers is EVENT else document % deep, headers)).status == 204
        deeper = b"[" * 11 + b"]" * 11
        reply = await served.post(deeper if headers is EVENT else document % deeper, headers)
        assert reply.status == 400
        assert "nested" in reply.problem["detail"]


@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data, wbits=-15)),
        ("identity", bytes),
        ("gzip, deflate", lambda data: zlib.compress(gzip.compress(data))),
    ],
)
async def test_a_compressed_body_arrives_decompressed(coding: str, compress: object) -> None:
    assert callable(compress)
    async with serving() as served:
        reply = await served.post(compress(b'{"a": [1, 2, 3]}'), **{"content-encoding": coding})
        assert reply.status == 204
        event = served.seen[0].event
        assert event is not None
        assert event.data == {"a": [1, 2, 3]}


async def test_a_decompression_bomb_is_a_413() -> None:
    async with serving(receiver=Receiver("/events", max_decompressed=100_000, max_ratio=1000)) as served:
        bomb = gzip.compress(b"0" * 50_000_000)
        assert (await served.post(bomb, **{"content-encoding": "gzip"})).status == 413


async def test_a_body_that_grows_by_more_than_the_ratio_is_a_413() -> None:
    async with serving(receiver=Receiver("/events", max_ratio=100)) as served:
        bomb = gzip.compress(b"0" * 500_000)
        assert (await served.post(bomb, **{"content-encoding": "gzip"})).status == 413


async def test_members_of_a_gzip_body_count_together() -> None:
    async with serving(receiver=Receiver("/events", max_decompressed=100_000)) as served:
        member = gzip.compress(b"0" * 60_000)
        assert (await served.post(member, **{"content-encoding": "gzip"})).status == 204
        assert (await served.post(member * 2, **{"content-encoding": "gzip"})).status == 413


async def test_a_truncated_gzip_body_is_a_400() -> None:
    async with serving() as served:
        reply = await served.post(gzip.compress(b"{}")[:-4], **{"content-encoding": "gzip"})
        assert reply.status == 400


# Credit


async def test_a_full_receiver_answers_429_with_retry_after_and_recovers() -> None:
    async with serving(lambda delivery: None, bound=binding(concurrency=1, prefetch=1)) as served:
        waiting = [asyncio.create_task(served.post()) for _ in range(2)]
        while len(served.seen) < 2:
            await asyncio.sleep(0)
        reply = await served.post()
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        for delivery in served.seen:
            served.source.settle(delivery, ACK)
        assert [(await task).status for task in waiting] == [204, 204]
        last = asyncio.create_task(served.post())
        while len(served.seen) < 3:
            await asyncio.sleep(0)
        served.source.settle(served.seen[2], ACK)
        assert (await last).status == 204


async def test_a_batch_larger_than_all_places_passes_when_nothing_else_is_held() -> None:
    async with serving(bound=binding(concurrency=1, prefetch=1)) as served:
        body = msgspec.json.encode([json_event(id=str(number)) for number in range(10)])
        assert (await served.post(body, BATCHED)).status == 204


async def test_fetch_hands_over_no_more_than_the_credit() -> None:
    async with serving(fetch=False) as served:
        tasks = [asyncio.create_task(served.post(b"x" * 1000)) for _ in range(5)]
        taken = list(await served.source.fetch(Credit(2, 1 << 30)))
        while served.source.progress().lag_events != 5 - len(taken):
            await asyncio.sleep(0)
        assert len(taken) <= 2
        by_bytes = await served.source.fetch(Credit(100, 3000))
        assert 0 < sum(delivery.size for delivery in by_bytes) <= 3000
        oversized = await served.source.fetch(Credit(100, 1))
        assert len(oversized) == 1
        for delivery in [*taken, *by_bytes, *oversized]:
            served.source.settle(delivery, ACK)
        await served.source.close()
        assert sorted({(await task).status for task in tasks}) in ([204], [204, 503])


async def test_a_cancelled_fetch_loses_nothing() -> None:
    async with serving(fetch=False) as served:
        fetching = asyncio.create_task(served.source.fetch(Credit(10, 1 << 30)))
        await asyncio.sleep(0)
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
        answer = asyncio.create_task(served.post())
        [delivery] = await served.source.fetch(Credit(10, 1 << 30))
        served.source.settle(delivery, ACK)
        assert (await answer).status == 204


async def test_a_request_that_nobody_fetches_is_answered_503_after_the_timeout() -> None:
    async with serving(fetch=False, bound=binding(timeout=0.05)) as served:
        reply = await served.post()
        assert reply.status == 503
        assert served.source.progress().lag_events == 0


# The end of a request, and of the receiver


async def test_a_client_that_goes_away_voids_its_delivery_and_frees_its_place() -> None:
    async with serving(lambda delivery: None, bound=binding(concurrency=1, prefetch=0)) as served:
        _, writer = await served.connect()
        head = "".join(f"{name}: {value}\r\n" for name, value in EVENT.items())
        writer.write(f"POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n{head}\r\n".encode())
        while not served.seen:
            await asyncio.sleep(0)
        writer.transport.abort()
        while served.seen[0].voided is None:
            await asyncio.sleep(0)
        assert served.seen[0].voided == "the client closed its request"
        served.source.settle(served.seen[0], ACK)
        after = asyncio.create_task(served.post())
        while len(served.seen) < 2:
            await asyncio.sleep(0)
        served.source.settle(served.seen[1], ACK)
        assert (await after).status == 204


async def test_a_delivery_voided_before_it_was_fetched_is_never_handed_over() -> None:
    async with serving(fetch=False) as served:
        _, writer = await served.connect()
        head = "".join(f"{name}: {value}\r\n" for name, value in EVENT.items())
        writer.write(f"POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n{head}\r\n".encode())
        while served.source.progress().lag_events != 1:
            await asyncio.sleep(0)
        writer.transport.abort()
        second = asyncio.create_task(served.post(**{"ce-id": "2"}))
        while served.source.progress().lag_events != 2:
            await asyncio.sleep(0)
        waiting = [delivery.voided for delivery in served.source._waiting]
        while waiting[0] is None:
            await asyncio.sleep(0)
            waiting = [delivery.voided for delivery in served.source._waiting]
        [delivery] = await served.source.fetch(Credit(10, 1 << 30))
        assert delivery.event is not None
        assert delivery.event.id == "2"
        served.source.settle(delivery, ACK)
        assert (await second).status == 204


async def test_closing_answers_what_was_never_fetched_and_ends_fetch() -> None:
    async with serving(fetch=False) as served:
        answer = asyncio.create_task(served.post())
        while served.source.progress().lag_events != 1:
            await asyncio.sleep(0)
        served.source.drain()
        assert (await answer).status == 503
        assert await served.source.fetch(Credit(1, 1)) == []
        reply = await served.post()
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")


async def test_what_is_in_flight_while_draining_still_gets_its_answer() -> None:
    async with serving(lambda delivery: None) as served:
        answer = asyncio.create_task(served.post())
        while not served.seen:
            await asyncio.sleep(0)
        served.source.drain()
        served.server.stop()
        served.source.settle(served.seen[0], ACK)
        assert (await answer).status == 204


async def test_settling_twice_answers_once() -> None:
    async with serving(lambda delivery: None) as served:
        answer = asyncio.create_task(served.post())
        while not served.seen:
            await asyncio.sleep(0)
        served.source.settle(served.seen[0], ACK)
        served.source.settle(served.seen[0], Outcome("retry", error=ValueError()))
        assert (await answer).status == 204


async def test_a_result_that_cannot_be_written_is_a_500_and_no_crash() -> None:
    result = Event(type="t", source="/s", data=object())
    async with serving(lambda delivery: Outcome("ack", result=result)) as served:
        assert (await served.post()).status == 500
        assert (await served.post()).status == 500


# The rest


async def test_the_original_keeps_the_event_and_no_credentials() -> None:
    async with serving() as served:
        await served.post(b"{}", authorization="Bearer secret", cookie="a=b", traceparent="00-aa-bb-01")
        original = served.seen[0].original()
        assert original.body == b"{}"
        names = {name for name, _ in original.headers}
        assert names == {*EVENT, "traceparent"}


async def test_requests_are_measured_by_status() -> None:
    async with serving() as served:
        await served.post()
        await served.post()
        await served.post(b"", {"content-type": "text/plain"})
        durations = served.source.requests.durations
        assert {code: sum(histogram.counts) for code, histogram in durations.items()} == {204: 2, 415: 1}


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "events"},
        {"path": "/events?x=1"},
        {"path": "/events", "mode": "later"},
        {"path": "/events", "methods": ["GET"]},
        {"path": "/events", "methods": []},
        {"path": "/events", "max_body": 0},
        {"path": "/events", "max_depth": "deep"},
        {"path": "/events", "allowed_origins": "*"},
        {"path": "/events", "allowed_rate": 0},
        {"path": "/events", "tokens": "secret"},
        {"path": "/events", "tokens": [""]},
        {"path": "/events", "callback_hosts": ["example.com"]},
        {"path": "/events", "retired": ["old"]},
        {"path": "/events", "retired": ["/events"]},
    ],
)
def test_a_receiver_that_cannot_be_is_refused_when_it_is_declared(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Receiver(**arguments)  # type: ignore[arg-type]


async def test_a_receiver_answers_its_senders() -> None:
    source = Receiver("/events").bind(binding())
    assert isinstance(source, HttpSource)
    assert (source.name, source.keeps_order, source.extend_every) == ("http:/events", False, None)
