"""Dead letters in a compacted topic, and their replays."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace.cloudevents.kafka import binary
from headrace.engine.dead_letters import OMITTED, Action, DeadLetter, DeadLetterStore, letter_id
from headrace.errors import InvalidEvent
from headrace.event import Event
from tests.kafka.harness import Harness, Reader


def letter(at: Harness, number: int, handler: str = "bill", **changes: Any) -> DeadLetter:
    event = Event("order.created", "/shop", {"n": number}, id=str(number))
    headers, body = binary(event)
    values: dict[str, Any] = {
        "id": letter_id(at.app, handler, "/shop", str(number), 0),
        "app": at.app,
        "handler": handler,
        "source": f"kafka:{at.topic}",
        "event_source": "/shop",
        "event_id": str(number),
        "event_type": "order.created",
        "headers": headers,
        "body": body,
        "reason": "broken",
        "exception": "ValueError",
        "message": "broken",
        "traceback": "",
        "attempts": 8,
        "first_seen": 1000.0 + number,
        "last_seen": 2000.0 + number,
    }
    return DeadLetter(**values | changes)


@pytest.fixture
async def store(at: Harness) -> AsyncIterator[DeadLetterStore]:
    store = at.broker.dead_letters(at.app)
    assert store is not None
    await store.open()
    yield store
    await store.close()


async def everything(store: DeadLetterStore, app: str, handler: str | None = None) -> list[DeadLetter]:
    return [stored.letter async for stored in store.scan(app, handler=handler)]


async def test_what_is_put_is_got_byte_for_byte(at: Harness, store: DeadLetterStore) -> None:
    raw = letter(at, 1, body=b"\xff\x00", headers=[("a", b"\xfe"), ("a", b"2")], origin={"topic": "t", "offset": 7})
    assert await store.put([raw]) == [None]
    stored = await store.get(raw.id)
    assert stored is not None
    assert stored.letter == raw
    assert await store.get("0" * 24) is None


async def test_an_id_that_exists_is_left_as_it_is(at: Harness, store: DeadLetterStore) -> None:
    first = letter(at, 1)
    await store.put([first, letter(at, 1, reason="twice in one batch")])
    assert await store.put([letter(at, 1, reason="again")]) == [None]
    assert [found.reason for found in await everything(store, at.app)] == ["broken"]


async def test_letters_are_scanned_oldest_first_and_by_handler(at: Harness, store: DeadLetterStore) -> None:
    await store.put([letter(at, n) for n in (3, 1, 2)])
    await store.put([letter(at, n, "ship") for n in range(500)])
    assert [found.event_id for found in await everything(store, at.app, "bill")] == ["1", "2", "3"]
    assert len(await everything(store, at.app)) == 503
    assert await store.counts(at.app) == {"bill": (3, 2001.0), "ship": (500, 2000.0)}


async def test_only_one_of_two_updates_of_the_same_revision_wins(at: Harness, store: DeadLetterStore) -> None:
    other = at.broker.dead_letters(at.app)
    assert other is not None
    await other.open()
    await store.put([letter(at, 1)])
    mine, theirs = await store.get(letter(at, 1).id), await other.get(letter(at, 1).id)
    assert mine is not None
    assert theirs is not None
    mine.letter.state = theirs.letter.state = "replaying"
    results = await asyncio.gather(
        store.update(mine.letter, mine.revision), other.update(theirs.letter, theirs.revision)
    )
    assert sorted(results) == [False, True]
    await other.close()


async def test_updates_of_many_processes_never_overwrite_what_they_have_not_seen(
    at: Harness, store: DeadLetterStore
) -> None:
    stores = [store, at.broker.dead_letters(at.app), at.broker.dead_letters(at.app)]
    await store.put([letter(at, 1)])
    id = letter(at, 1).id

    async def append(which: int) -> None:
        one = stores[which]
        assert one is not None
        for turn in range(4):
            while True:
                stored = await one.get(id)
                assert stored is not None
                stored.letter.audit.append(Action(float(turn), "seen", f"p{which}"))
                if await one.update(stored.letter, stored.revision):
                    break

    for one in stores[1:]:
        assert one is not None
        await one.open()
    await asyncio.gather(*(append(which) for which in range(3)))
    final = await store.get(id)
    assert final is not None
    assert sorted((action.by, action.at) for action in final.letter.audit) == [
        (f"p{which}", float(turn)) for which in range(3) for turn in range(4)
    ]
    for one in stores[1:]:
        assert one is not None
        await one.close()


async def test_a_resolved_letter_is_a_tombstone_that_still_tells_its_story(at: Harness, store: DeadLetterStore) -> None:
    await store.put([letter(at, 1)])
    stored = await store.get(letter(at, 1).id)
    assert stored is not None
    stored.letter.state = "dropped"
    stored.letter.audit.append(Action(1.0, "dropped", "ann", "no use"))
    assert await store.update(stored.letter, stored.revision)
    assert not await store.update(stored.letter, stored.revision), "that revision is gone"
    records = await at.raw(f"headrace.{at.app}.dead-letters", 2)
    assert records[1].value() is None
    again = at.broker.dead_letters(at.app)
    assert again is not None
    await again.open()
    resolved = await again.get(letter(at, 1).id)
    assert resolved is not None
    assert resolved.letter.state == "dropped"
    assert resolved.letter.audit[0].by == "ann"
    assert await again.counts(at.app) == {}
    assert await again.put([letter(at, 1)]) == [None]
    assert [found.state for found in await everything(again, at.app)] == ["dropped"]
    await again.close()


async def test_a_letter_survives_the_process_that_stored_it(at: Harness, store: DeadLetterStore) -> None:
    await store.put([letter(at, n) for n in range(20)])
    other = Harness(at.url, at.app)
    later = other.broker.dead_letters(at.app)
    assert later is not None
    await later.open()
    assert len(await everything(later, at.app)) == 20
    await later.close()
    await other.close()


async def test_one_too_large_for_the_topic_stays_where_it_came_from(at: Harness, store: DeadLetterStore) -> None:
    huge = b"x" * 9_000_000
    await at.make_topic(config={"max.message.bytes": "20000000"})
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": at.bootstrap, "message.max.bytes": 20_000_000, "log_level": 0})
    producer.produce(at.topic, huge, partition=0, headers=[("a", b"b")])
    assert producer.flush(30) == 0
    big = letter(at, 1, body=huge, headers=[("a", b"b")], origin={"topic": at.topic, "partition": 0, "offset": 0})
    assert await store.put([big, letter(at, 2)]) == [None, None]
    (listed, _) = await everything(store, at.app)
    assert listed.body is None
    assert listed.origin[OMITTED] == len(huge)
    stored = await store.get(big.id)
    assert stored is not None
    assert stored.letter.body == huge
    assert stored.letter.headers == [("a", b"b")]


async def replays(at: Harness, handler: str = "bill") -> Reader:
    reader = Reader(at.broker.replays(at.binding(handler)))  # type: ignore[arg-type]
    at.readers.append(reader)
    await reader.source.open()
    return reader


async def test_a_replay_reaches_its_handler_in_its_lane_with_its_number(at: Harness) -> None:
    reader = await replays(at)
    await at.broker.replay(letter(at, 1, key="3/alice", replay=1))
    (delivery,) = await reader.take(1)
    assert delivery.event is not None
    assert delivery.event["replayof"] == letter(at, 1).id
    assert str(delivery.event["replaynumber"]) == "2"
    assert delivery.event.data == {"n": 1}
    assert reader.source.default_key(delivery) == "3/alice"


async def test_a_replay_may_be_larger_than_a_topic_takes_by_default(at: Harness) -> None:
    reader = await replays(at)
    event = Event("order.created", "/shop", "x" * 3_000_000, id="1")
    headers, body = binary(event)
    await at.broker.replay(letter(at, 1, headers=headers, body=body))
    (delivery,) = await reader.take(1)
    assert delivery.event is not None
    assert delivery.event.data == event.data


async def test_replays_of_another_handler_are_not_mine(at: Harness) -> None:
    reader = await replays(at, "ship")
    await at.broker.replay(letter(at, 1))
    await at.broker.replay(letter(at, 2, "ship"))
    (delivery,) = await reader.take(1)
    assert delivery.event is not None
    assert delivery.event.id == "2"


async def test_bytes_that_are_no_event_must_be_edited_first(at: Harness) -> None:
    with pytest.raises(InvalidEvent, match="edit"):
        await at.broker.replay(letter(at, 1, headers=[("ce_specversion", b"9")], body=b"{", event_type=""))


async def test_starts_of_suspects_are_counted_over_processes(at: Harness) -> None:
    suspects = at.broker.suspects(at.app)
    assert await suspects.started("bill", [("/s", "1"), ("/s", "2")]) == [1, 1]
    assert await suspects.started("bill", [("/s", "1")]) == [2]
    await suspects.finished("bill", [("/s", "2")])
    later = at.broker.suspects(at.app)
    assert await later.started("bill", [("/s", "1"), ("/s", "2")]) == [3, 1]
    assert await later.started("ship", [("/s", "1")]) == [1]
    await suspects.end(at.app, "p")
    await later.end(at.app, "p")
