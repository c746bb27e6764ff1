"""A replay is the event that the handler saw: with every attribute, however its record said them."""

from typing import Any

import pytest

from headrace import App, Event, Reject
from headrace.engine.replays import replay_letter
from tests.kafka.harness import Harness, until

RECORDS: dict[str, tuple[dict[str, Any], bytes | None]] = {
    "binary, with extensions": (
        {
            "ce_specversion": b"1.0",
            "ce_id": b"1",
            "ce_source": b"/shop",
            "ce_type": b"order.created",
            "ce_time": b"2026-11-28T10:00:00Z",
            "ce_dataschema": b"https://example.com/order",
            "ce_subject": "stra\u00dfe".encode(),
            "ce_tenant": b"a",
            "content-type": b"application/json",
        },
        b'{"id": 1}',
    ),
    "structured": (
        {"content-type": b"application/cloudevents+json"},
        b'{"specversion":"1.0","id":"1","source":"/shop","type":"order.created","tenant":"a","level":3,'
        b'"datacontenttype":"application/json","data":{"id":1}}',
    ),
    "a plain record of JSON": ({}, b'{"id": 1}'),
    "a plain record of text": ({"content-type": b"text/plain"}, b"one"),
    "a plain record that looks like an event": (
        {},
        b'{"specversion":"1.0","id":"inner","source":"/inner","type":"inner"}',
    ),
    "a record without a value": ({}, None),
}


@pytest.mark.parametrize(("headers", "body"), RECORDS.values(), ids=RECORDS.keys())
async def test_a_replay_is_the_event_that_was_refused(at: Harness, headers: dict[str, Any], body: bytes | None) -> None:
    await at.make_topic()
    at.write(body, key="k", headers=headers)
    at.delivered()
    app = App(at.app, broker=at.url, store="memory://")
    seen: list[Event] = []

    @app.on(at.topic)
    async def bill(event: Event) -> None:
        seen.append(event)
        if len(seen) == 1:
            raise Reject("not now")

    async with app.running() as worker:
        letters = worker.dead_letters
        assert letters is not None

        async def dead() -> bool:
            return bool(await letters.counts(at.app))

        await until(dead)
        (stored,) = [one async for one in letters.scan(at.app)]
        assert stored.letter.event is not None
        assert stored.letter.event.attributes == seen[0].attributes
        assert await replay_letter(letters, worker.broker, stored, by="test") == ""
        await until(lambda: len(seen) == 2)
    refused, replayed = seen
    added = {"replayof": stored.letter.id, "replaynumber": "1"}
    assert replayed.attributes == {**refused.attributes, **added}
    assert replayed.data == refused.data
    assert replayed.raw == refused.raw
