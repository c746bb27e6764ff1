"""Drives a watch's source as the engine does, and remembers every event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Self

from headrace.engine.broker import Binding
from headrace.engine.delivery import ACK, Delivery
from headrace.engine.source import Credit
from headrace.event import Event
from headrace.kubernetes import Watch
from headrace.kubernetes.reflector import Timing
from headrace.kubernetes.source import WatchSource

CREDIT = Credit(1000, 64 << 20)
#: Delays as short as tests want them; what is under test is the order of things.
SHORT = Timing(watch=(300, 600), backoff=(0.05, 0.4), absent=0.4, silence=5.0)


class Notebook:
    """Checkpoints in memory, over restarts of the source. ``saves`` counts calls."""

    def __init__(self) -> None:
        self.saved: dict[str, dict[str, bytes]] = {}
        self.saves = 0

    async def load(self, scope: str) -> Mapping[str, bytes]:
        return dict(self.saved.get(scope, {}))

    async def save(self, scope: str, changes: Mapping[str, bytes | None]) -> None:
        self.saves += 1
        kept = self.saved.setdefault(scope, {})
        for name, value in changes.items():
            if value is None:
                kept.pop(name, None)
            else:
                kept[name] = value


def binding(handler: str = "handler", *, checkpoints: Any = None, budget: int = 64 << 20) -> Binding:
    return Binding(
        app="tests",
        handler=handler,
        keyed=True,
        concurrency=8,
        prefetch=Credit(32, budget),
        parked=Credit(100, 1 << 20),
        timeout=30.0,
        checkpoints=checkpoints,
    )


class Watching:
    """One source at work. ``events`` in order; ``hold`` keeps deliveries unsettled in ``held``."""

    def __init__(
        self,
        watch: Watch,
        *,
        handler: str = "handler",
        checkpoints: Any = None,
        timing: Timing = SHORT,
        budget: int = 64 << 20,
    ) -> None:
        self.source = WatchSource(watch, binding(handler, checkpoints=checkpoints, budget=budget), timing=timing)
        self.events: list[Event] = []
        self.held: list[Delivery] = []
        self.hold = False
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.source.open()
        self._task = asyncio.create_task(self._consume())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End as a drained app ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self.source.flush()
            await self.source.close()

    async def _consume(self) -> None:
        while True:
            for delivery in await self.source.fetch(CREDIT):
                assert delivery.event is not None
                self.events.append(delivery.event)
                if self.hold:
                    self.held.append(delivery)
                else:
                    self.source.settle(delivery, ACK)
            async with self._news:
                self._news.notify_all()

    async def until(self, done: Callable[[list[Event]], object], *, seconds: float = 20.0) -> list[Event]:
        """Wait until the events satisfy ``done``."""
        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: done(self.events))
        except TimeoutError:
            shown = "\n".join(f"  {verb(event)} {event['name']} {event.id}" for event in self.events[-30:])
            raise AssertionError(f"not seen in {seconds} s; {self.source.progress()}; seen:\n{shown}") from None
        return self.events

    async def ready(self) -> None:
        """Wait until the watch is open and everything was shown."""
        await eventually(lambda: self.source.progress().connected and not self.source.progress().lag_events)

    def verbs(self, name: str) -> list[str]:
        """What was said of the objects of a name."""
        return [verb(event) for event in self.events if event["name"] == name]


async def eventually(done: Callable[[], object], *, seconds: float = 20.0) -> None:
    """Look until it is so: for what has no event of its own."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not done():
        assert loop.time() < deadline, f"not so within {seconds} s"
        await asyncio.sleep(0.02)


def verb(event: Event) -> str:
    return event.type.rpartition(".")[2]


def told(name: str, *verbs: str) -> Callable[[list[Event]], bool]:
    """Whether exactly these verbs were said of the objects of a name, in this order."""
    return lambda events: [verb(event) for event in events if event["name"] == name] == list(verbs)
