"""What the tests of sources share: publishing, fetching until enough, settling."""

import asyncio
from collections.abc import Sequence

from headrace import Event
from headrace.engine.delivery import ACK, Delivery
from headrace.engine.sink import Publication, Published
from headrace.engine.source import Credit, Source
from headrace.nats.broker import NatsBroker

CREDIT = Credit(40, 1 << 20)


def events(count: int, *, first: int = 0, type: str = "order.created", size: int = 0) -> list[Event]:
    """Events with ids ``first`` …"""
    return [
        Event(type, "/tests", {"n": n, "pad": "x" * size}, id=str(n), datacontenttype="application/json")
        for n in range(first, first + count)
    ]


async def publish(broker: NatsBroker, channel: str, items: Sequence[Event]) -> list[Published]:
    """Publish, and insist on every confirmation."""
    sink = broker.sink(channel)
    await sink.open()
    results = await sink.publish([Publication(event) for event in items])
    for result in results:
        if isinstance(result, Exception):
            raise result
    return list(results)  # type: ignore[arg-type]


async def take(source: Source, count: int, *, credit: Credit = CREDIT, within: float = 20.0) -> list[Delivery]:
    """Fetch exactly ``count`` deliveries, unsettled."""
    found: list[Delivery] = []
    async with asyncio.timeout(within):
        while len(found) < count:
            found += await source.fetch(Credit(min(credit.items, count - len(found)), credit.bytes))
    return found


async def handle(source: Source, count: int, *, within: float = 20.0) -> list[str]:
    """Fetch and acknowledge ``count`` deliveries; their events' ids."""
    found: list[str] = []
    async with asyncio.timeout(within):
        while len(found) < count:
            for delivery in await source.fetch(Credit(min(CREDIT.items, count - len(found)), CREDIT.bytes)):
                assert delivery.event is not None, delivery.error
                found.append(delivery.event.id)
                source.settle(delivery, ACK)
    await source.flush()
    return found


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    """The ids of their events."""
    return [delivery.event.id if delivery.event is not None else "?" for delivery in deliveries]


async def nothing_comes(source: Source, seconds: float = 0.5) -> bool:
    """Whether a fetch stays without a delivery."""
    try:
        async with asyncio.timeout(seconds):
            await source.fetch(CREDIT)
    except TimeoutError:
        return True
    return False
