"""Channels, replay channels and dead letters in the memory of one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from headrace.engine.broker import Binding, Finding
from headrace.engine.checkpoints import Checkpoints, Suspects
from headrace.engine.dead_letters import DeadLetter, DeadLetterStore
from headrace.engine.delivery import Delivery, Outcome
from headrace.engine.sink import Publication, Published, Sink
from headrace.engine.source import Credit, Progress, Source
from headrace.event import Event
from headrace.memory.dead_letters import MemoryDeadLetters

if TYPE_CHECKING:
    from headrace.engine.source import Declaration
    from headrace.errors import PublishFailed

__all__ = ["MemoryBroker", "MemorySink", "MemorySource", "create"]

#: Events that a channel keeps for late subscribers.
HISTORY = 1_000_000


def create(url: str, *, app: str, settings: Mapping[str, str], ready_within: float) -> MemoryBroker:
    """A broker of its own for each app."""
    return MemoryBroker(url)


class Channel:
    """One channel: its events, and the sources that read it."""

    __slots__ = ("dropped", "events", "readers")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.dropped = 0
        self.readers: list[MemorySource] = []

    def append(self, event: Event) -> None:
        self.events.append(event)
        for reader in self.readers:
            reader.wake()


class MemoryBroker:
    """``on_publish`` is called with (channel, event) before an event is accepted; what it raises is its answer."""

    name = "memory"

    def __init__(self, url: str = "memory://") -> None:
        self.url = url
        self.channels: dict[str, Channel] = {}
        self.letters = MemoryDeadLetters()
        self.on_publish: Callable[[str, Event], PublishFailed | None] | None = None
        self._sinks: dict[str, MemorySink] = {}

    async def open(self) -> None:
        """Nothing to connect to."""

    def at(self, channel: str) -> Channel:
        """The channel of this name, made when it is first named."""
        found = self.channels.get(channel)
        if found is None:
            found = self.channels[channel] = Channel()
        return found

    def channel(self, channel: str, binding: Binding) -> Source:
        return MemorySource(channel, self.at(channel), binding)

    def sink(self, channel: str) -> Sink:
        sink = self._sinks.get(channel)
        if sink is None:
            sink = self._sinks[channel] = MemorySink(channel, self)
        return sink

    def dead_letters(self, app: str) -> DeadLetterStore | None:
        return self.letters

    def replays(self, binding: Binding) -> Source:
        name = f"replay:{binding.durable}"
        return MemorySource(name, self.at(name), binding)

    async def replay(self, letter: DeadLetter) -> None:
        event = letter.replayed()
        self.at(f"replay:{letter.app}__{letter.handler}").append(event)

    def checkpoints(self, app: str) -> Checkpoints | None:
        return None

    def suspects(self, app: str) -> Suspects | None:
        return None

    async def inspect(self, bindings: list[tuple[str | Declaration, Binding]]) -> list[Finding]:
        return [Finding("warning", "memory://: nothing survives the process")]

    async def close(self) -> None:
        """Forget everything."""
        self.channels.clear()


class MemorySink:
    """Publishes to one channel."""

    def __init__(self, channel: str, broker: MemoryBroker) -> None:
        self.name = f"memory:{channel}"
        self._channel = channel
        self._broker = broker

    async def open(self) -> None:
        """Nothing to declare."""

    async def publish(self, publications: Sequence[Publication]) -> Sequence[Published | Exception]:
        results: list[Published | Exception] = []
        hook = self._broker.on_publish
        for publication in publications:
            event = publication.event
            if publication.key is not None:
                event = event.replace(partitionkey=publication.key)
            refusal = hook(self._channel, event) if hook is not None else None
            if refusal is not None:
                results.append(refusal)
                continue
            self._broker.at(self._channel).append(event)
            results.append(Published())
        return results

    async def close(self) -> None:
        """Nothing to close."""


class MemorySource:
    """Reads one channel for one handler, in order."""

    keeps_order = True
    extend_every: float | None = None

    def __init__(self, channel: str, at: Channel, binding: Binding) -> None:
        self.name = f"memory:{channel}"
        self._at = at
        self._next = len(at.events) if binding.start == "latest" else 0
        self._back: list[Event] = []
        self._ready: asyncio.Future[None] | None = None
        self.settled: list[tuple[Delivery, Outcome]] = []
        self.unsettled = 0

    async def open(self) -> None:
        self._at.readers.append(self)

    def wake(self) -> None:
        """An event was published."""
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    @property
    def waiting(self) -> int:
        """Events not fetched yet."""
        return len(self._at.events) - self._next + len(self._back)

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        while not self.waiting:
            self._ready = asyncio.get_running_loop().create_future()
            await self._ready
        batch: list[Delivery] = []
        space = credit.bytes
        while len(batch) < credit.items and self.waiting:
            event = self._back[0] if self._back else self._at.events[self._next]
            size = len(event.raw or b"") + 256
            if batch and size > space:
                break
            space -= size
            if self._back:
                self._back.pop(0)
            else:
                self._next += 1
            batch.append(Delivery(self, event, size))
        self.unsettled += len(batch)
        return batch

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        self.unsettled -= 1
        if outcome.kind in ("hand_back", "retry") and delivery.event is not None:
            self._back.append(delivery.event)
            self.wake()

    async def flush(self) -> Sequence[Delivery]:
        return ()

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing expires."""

    async def close(self) -> None:
        if self in self._at.readers:
            self._at.readers.remove(self)

    def progress(self) -> Progress:
        return Progress(connected=True, lag_events=self.waiting)
