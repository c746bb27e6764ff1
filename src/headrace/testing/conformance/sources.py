"""What every source keeps: see `headrace.engine.source`. The suite drives a source itself, without the engine."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from headrace.engine.broker import Binding
from headrace.engine.delivery import ACK, HAND_BACK, Delivery, Outcome
from headrace.engine.source import Credit, Progress, Source
from headrace.event import Event

__all__ = [
    "DecodingConformance",
    "HistoryConformance",
    "RetryConformance",
    "SettlementConformance",
    "SourceConformance",
]

AMPLE = Credit(1_000, 64 * 1024 * 1024)


def event(number: int, *, key: str | None = None, size: int = 0) -> Event:
    """An event with attributes of every kind; ``size``: bytes of padding in its data."""
    extensions: dict[str, Any] = {} if key is None else {"partitionkey": key}
    return Event(
        type="conformance.happened",
        source="/conformance",
        id=f"event-{number}",
        time="2026-11-24T10:00:00.123Z",
        subject="a subject, with ü",
        datacontenttype="application/json",
        data={"number": number, "text": "ü" * 3, "padding": "x" * size},
        comexample="an extension",
        **extensions,
    )


def ids(deliveries: Iterable[Delivery]) -> list[str]:
    """Their events' ids, in order."""
    return [delivery.event.id for delivery in deliveries if delivery.event is not None]


class SourceConformance:
    """For every source. The subclass provides two things over a channel of the running test's own:

    - ``make(binding)``: a source for this handler, not open; another one of the same binding is another process of the app.
    - ``send(events)``: publish in order, confirmed.

    ``within``: seconds that a test waits for what must come. ``keyed``: the handlers of the suite are keyed.
    """

    within: float = 20.0
    keyed: bool = False

    async def make(self, binding: Binding) -> Source:
        """A source of the channel for one handler."""
        raise NotImplementedError

    async def send(self, events: Sequence[Event]) -> None:
        """Publish and wait for the confirmation."""
        raise NotImplementedError

    def binding(self, handler: str = "one", **changes: Any) -> Binding:
        """A handler as the source learns of it."""
        settings: dict[str, Any] = {
            "app": "conformance", "handler": handler, "keyed": self.keyed, "concurrency": 64, "prefetch": Credit(1_000, 1 << 26),
            "parked": Credit(1_000, 1 << 26), "timeout": 30.0, "handlers": ("one", "two"),
        }  # fmt: skip
        return Binding(**{**settings, **changes})

    @asynccontextmanager
    async def opened(self, handler: str = "one", **changes: Any) -> AsyncIterator[Source]:
        """A source that is open until the block ends."""
        source = await self.make(self.binding(handler, **changes))
        await source.open()
        try:
            yield source
        finally:
            await source.close()

    async def take(self, source: Source, count: int, *, credit: Credit = AMPLE, settle: bool = True) -> list[Delivery]:
        """Fetch until there are so many, settling each batch as it comes."""
        taken: list[Delivery] = []
        async with asyncio.timeout(self.within):
            while len(taken) < count:
                batch = await source.fetch(credit)
                assert batch, "fetch returned nothing, and the source is not draining"
                if settle:
                    for delivery in batch:
                        source.settle(delivery, ACK)
                taken.extend(batch)
        return taken

    async def _take_each(self, source: Source, expected: set[str]) -> None:
        """Fetch and settle until each has come; one that comes twice, on a machine that settles late, is no fault."""
        missing = set(expected)
        async with asyncio.timeout(self.within):
            while missing:
                batch = await source.fetch(AMPLE)
                assert expected.issuperset(ids(batch))
                missing.difference_update(ids(batch))
                for delivery in batch:
                    source.settle(delivery, ACK)

    async def nothing_comes(self, source: Source, seconds: float = 1.0) -> list[str]:
        """What is fetched in so many seconds, though nothing should be."""
        try:
            async with asyncio.timeout(seconds):
                return ids(await source.fetch(AMPLE)) or ["a delivery without an event"]
        except TimeoutError:
            return []

    async def test_payload_and_attributes_arrive_intact(self) -> None:
        sent = [event(1), event(2, key="ann"), Event(type="bare", source="/s", id="bare-1")]
        async with self.opened() as source:
            await self.send(sent)
            taken = await self.take(source, 3)
        arrived = {delivery.event.id: delivery for delivery in taken if delivery.event is not None}
        for original in sent:
            delivery = arrived[original.id]
            assert delivery.event is not None
            got = dict(delivery.event.attributes)
            assert {name: got.get(name) for name in original.attributes} == dict(original.attributes)
            assert delivery.event.data == original.data
            assert delivery.size > 0
            # The one that settles it: the source itself, or what it reads through.
            assert isinstance(delivery.source, Source)
            assert delivery.attempt == 0
            assert not delivery.redelivered

    async def test_what_arrived_is_kept_for_the_dead_letter(self) -> None:
        async with self.opened() as source:
            await self.send([event(1)])
            (delivery,) = await self.take(source, 1)
            headers, body = delivery.original()
        assert body is not None
        assert b'"number":1' in body.replace(b" ", b"")
        text = b"".join(value if isinstance(value, bytes) else value.encode() for _, value in headers) + body
        assert b"event-1" in text

    async def test_items_never_exceed_the_credit(self) -> None:
        async with self.opened() as source:
            await self.send([event(number) for number in range(60)])
            seen: list[Delivery] = []
            async with asyncio.timeout(self.within):
                while len(seen) < 60:
                    batch = await source.fetch(Credit(7, 1 << 26))
                    assert 1 <= len(batch) <= 7
                    for delivery in batch:
                        source.settle(delivery, ACK)
                    seen.extend(batch)
        assert Counter(ids(seen)) == Counter(f"event-{number}" for number in range(60))

    async def test_bytes_never_exceed_the_credit_but_for_one_large_event(self) -> None:
        async with self.opened() as source:
            await self.send([event(number, size=2_000) for number in range(20)])
            await self.send([event(20, size=50_000)])
            seen: list[Delivery] = []
            async with asyncio.timeout(self.within):
                while len(seen) < 21:
                    batch = await source.fetch(Credit(100, 10_000))
                    assert len(batch) == 1 or sum(delivery.size for delivery in batch) <= 10_000
                    for delivery in batch:
                        source.settle(delivery, ACK)
                    seen.extend(batch)
        assert len(set(ids(seen))) == 21

    async def test_a_cancelled_fetch_loses_nothing(self) -> None:
        count = 300
        async with self.opened() as source:
            sending = asyncio.ensure_future(self._trickle(count))
            seen: list[str] = []
            async with asyncio.timeout(self.within):
                while len(seen) < count:
                    fetching = asyncio.ensure_future(source.fetch(Credit(5, 1 << 20)))
                    for _ in range(len(seen) % 4):
                        await asyncio.sleep(0)
                    if not fetching.done():
                        await asyncio.wait([fetching], timeout=0.002 * (len(seen) % 3))
                    fetching.cancel()
                    (result,) = await asyncio.gather(fetching, return_exceptions=True)
                    if isinstance(result, asyncio.CancelledError):
                        # Give the next one a chance to bring something before it is cancelled as well.
                        result = await source.fetch(Credit(5, 1 << 20))
                    assert not isinstance(result, BaseException), result
                    for delivery in result:
                        source.settle(delivery, ACK)
                    seen.extend(ids(result))
            await sending
        assert Counter(seen) == Counter(f"event-{number}" for number in range(count))

    async def _trickle(self, count: int) -> None:
        for first in range(0, count, 10):
            await self.send([event(number) for number in range(first, min(first + 10, count))])
            await asyncio.sleep(0)

    async def test_a_fetch_waits_for_an_event(self) -> None:
        async with self.opened() as source:
            fetching = asyncio.ensure_future(source.fetch(AMPLE))
            await asyncio.sleep(0.05)
            assert not fetching.done()
            await self.send([event(1)])
            assert ids(await asyncio.wait_for(fetching, self.within)) == ["event-1"]

    async def test_order_is_kept_where_the_source_says_so(self) -> None:
        async with self.opened() as source:
            keys = ["ann", "bob", "cid"]
            await self.send([event(number, key=keys[number % 3]) for number in range(600)])
            taken = await self.take(source, 600, credit=Credit(50, 1 << 26))
            if source.keeps_order:
                for key in range(3):
                    numbers = [int(id.removeprefix("event-")) for id in ids(taken)]
                    lane = [number for number in numbers if number % 3 == key]
                    assert lane == sorted(lane)
        assert len(set(ids(taken))) == 600

    async def test_thousands_of_events_reach_two_handlers_each(self) -> None:
        async with self.opened("one") as one, self.opened("two") as two:
            events = [event(number) for number in range(3_000)]
            sending = asyncio.ensure_future(self.send(events))
            await asyncio.gather(
                self._take_each(one, {sent.id for sent in events}),
                self._take_each(two, {sent.id for sent in events}),
                sending,
            )

    async def test_settling_never_raises_and_flushing_confirms_it(self) -> None:
        async with self.opened() as source:
            await self.send([event(number) for number in range(20)])
            taken = await self.take(source, 20, settle=False)
            kinds = [ACK, Outcome("dead"), Outcome("drop")]
            for number, delivery in enumerate(taken):
                source.settle(delivery, kinds[number % 3])
            assert list(await source.flush()) == []
            assert await self.nothing_comes(source) == []

    async def test_closing_twice_and_closing_what_was_never_read_is_no_trouble(self) -> None:
        source = await self.make(self.binding())
        await source.open()
        await source.close()
        async with self.opened() as again:
            await self.send([event(1)])
            assert ids(await self.take(again, 1)) == ["event-1"]

    async def test_progress_tells_that_it_is_connected(self) -> None:
        async with self.opened() as source:
            await self.send([event(1)])
            await self.take(source, 1)
            progress = source.progress()
            assert isinstance(progress, Progress)
            assert progress.connected
            assert progress.last_progress <= time.monotonic() + 1
            assert source.name


class DecodingConformance(SourceConformance):
    """For sources of bytes. Provide ``send_garbage`` beside the rest."""

    async def send_garbage(self) -> None:
        """Publish one message that cannot be an event (say, a CloudEvent without an id)."""
        raise NotImplementedError

    async def test_bytes_that_are_no_event_are_a_delivery_with_an_error(self) -> None:
        async with self.opened() as source:
            await self.send_garbage()
            await self.send([event(1)])
            taken = await self.take(source, 2)
        bad, good = sorted(taken, key=lambda delivery: delivery.event is not None)
        assert bad.event is None
        assert bad.error is not None
        assert bad.original().body is not None
        assert good.error is None


class HistoryConformance(SourceConformance):
    """For sources whose broker keeps events: what was sent before anybody read."""

    async def test_a_late_subscriber_gets_the_history(self) -> None:
        await self.send([event(number) for number in range(50)])
        async with self.opened() as source:
            assert set(ids(await self.take(source, 50))) == {f"event-{number}" for number in range(50)}

    async def test_a_late_subscriber_that_starts_at_the_latest_gets_what_comes(self) -> None:
        await self.send([event(number) for number in range(5)])
        async with self.opened("two", start="latest") as source:
            await self.send([event(5)])
            assert ids(await self.take(source, 1)) == ["event-5"]

    async def test_a_second_handler_gets_the_history_that_the_first_has_finished(self) -> None:
        async with self.opened("one") as one:
            await self.send([event(number) for number in range(20)])
            await self.take(one, 20)
            await one.flush()
            async with self.opened("two") as two:
                assert len(set(ids(await self.take(two, 20)))) == 20


class SettlementConformance(HistoryConformance):
    """For sources whose broker remembers what was settled, over the end of the process that settled it."""

    #: Seconds within which an unsettled delivery comes to a successor; the handler's own ack deadline bounds it.
    redelivered_within: float = 45.0

    async def test_closing_and_opening_in_batches_loses_none(self) -> None:
        events = [event(number) for number in range(200)]
        sending = asyncio.ensure_future(self.send(events))
        seen: Counter[str] = Counter()
        async with asyncio.timeout(10 * self.within):
            while len(seen) < 200:
                async with self.opened() as source:
                    seen.update(ids(await self.take(source, 1, credit=Credit(40, 1 << 26))))
                    await source.flush()
        await sending
        assert len(seen) == 200

    async def test_what_was_settled_does_not_come_again(self) -> None:
        async with self.opened() as source:
            await self.send([event(number) for number in range(20)])
            await self.take(source, 20)
            assert list(await source.flush()) == []
        async with self.opened() as source:
            assert await self.nothing_comes(source, 2.0) == []

    async def test_what_was_not_settled_comes_again(self) -> None:
        async with self.opened() as source:
            await self.send([event(number) for number in range(10)])
            await self.take(source, 10, settle=False)
        assert await self._again(10) == {f"event-{number}" for number in range(10)}

    async def test_settling_out_of_order_never_acknowledges_an_earlier_one(self) -> None:
        async with self.opened() as source:
            await self.send([event(number, key="ann") for number in range(5)])
            taken = {ids([delivery])[0]: delivery for delivery in await self.take(source, 5, settle=False)}
            for number in (4, 3, 1):
                source.settle(taken[f"event-{number}"], ACK)
            await source.flush()
        # What was settled may come again where the source keeps order; what was not must.
        assert await self._again(2) >= {"event-0", "event-2"}

    async def test_what_failed_among_others_comes_again_after_a_restart(self) -> None:
        async with self.opened() as source:
            await self.send([event(number, key="ann") for number in range(5)])
            for delivery in await self.take(source, 5, settle=False):
                if ids([delivery]) not in (["event-2"], ["event-4"]):
                    source.settle(delivery, ACK)
            await source.flush()
        assert await self._again(2) >= {"event-2", "event-4"}

    async def test_what_was_handed_back_comes_to_a_successor(self) -> None:
        async with self.opened() as source:
            await self.send([event(number) for number in range(10)])
            for number, delivery in enumerate(await self.take(source, 10, settle=False)):
                source.settle(delivery, ACK if number < 4 else HAND_BACK)
            await source.flush()
        again = await self._again(6)
        assert len(again) >= 6

    async def test_what_was_fetched_by_nobody_comes_to_a_successor(self) -> None:
        async with self.opened() as source:
            await self.send([event(number) for number in range(50)])
            await self.take(source, 1, credit=Credit(1, 1 << 26))
            await source.flush()
        assert len(await self._again(49)) >= 49

    async def test_what_is_extended_stays_with_its_owner(self) -> None:
        async with self.opened() as source:
            await self.send([event(1)])
            (delivery,) = await self.take(source, 1, settle=False)
            await source.extend([delivery])
            assert delivery.voided is None
            source.settle(delivery, ACK)
            assert list(await source.flush()) == []

    async def test_opening_and_closing_at_once_loses_none(self) -> None:
        await self.send([event(number) for number in range(100)])
        seen: set[str] = set()

        async def visit(number: int) -> None:
            async with self.opened() as source:
                if number % 2:
                    try:
                        async with asyncio.timeout(0.3):
                            batch = await source.fetch(Credit(10, 1 << 26))
                    except TimeoutError:
                        return
                    for delivery in batch:
                        source.settle(delivery, ACK)
                    unconfirmed = await source.flush()
                    seen.update(set(ids(batch)) - set(ids(unconfirmed)))

        await asyncio.gather(*map(visit, range(8)))
        seen |= await self._again(100 - len(seen), until=lambda again: len(seen | again) == 100)
        assert len(seen) == 100

    async def _again(self, count: int, until: Any = None) -> set[str]:
        """What a successor gets: at least so many different events, or until ``until`` says so."""
        again: set[str] = set()
        if count <= 0:
            return again
        async with self.opened() as source, asyncio.timeout(self.redelivered_within):
            while not (until(again) if until is not None else len(again) >= count):
                batch = await source.fetch(AMPLE)
                for delivery in batch:
                    source.settle(delivery, ACK)
                again |= set(ids(batch))
            await source.flush()
        return again


class RetryConformance(SettlementConformance):
    """For sources that bring a retry back by themselves (``keeps_order`` is false)."""

    async def test_a_retry_comes_back_after_its_delay_and_others_pass(self) -> None:
        async with self.opened() as source:
            assert not source.keeps_order
            await self.send([event(1)])
            (delivery,) = await self.take(source, 1, settle=False)
            begun = time.monotonic()
            source.settle(delivery, Outcome("retry", delay=1.0))
            await self.send([event(2)])
            assert ids(await self.take(source, 1)) == ["event-2"]
            (again,) = await self.take(source, 1)
            assert ids([again]) == ["event-1"]
            assert again.redelivered
            assert time.monotonic() - begun >= 0.9
