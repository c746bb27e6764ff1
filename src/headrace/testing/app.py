"""``async with app.testing() as t``: the app in memory, with virtual time and injected faults."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any

from headrace.engine.broker import Binding
from headrace.engine.clock import Clock
from headrace.engine.dead_letters import DeadLetter
from headrace.engine.outputs import make_event
from headrace.engine.source import Source
from headrace.errors import ConfigurationError
from headrace.event import Event
from headrace.memory.broker import MemoryBroker
from headrace.settings import Settings
from headrace.stores import open_store
from headrace.testing.faults import Faults
from headrace.testing.virtual_time import VirtualTime
from headrace.worker import Worker

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.compilation import Compiled

__all__ = ["TestApp"]


class TestApp:
    """The app at work without a server.

    Every source is replaced by one in memory under the same name; the pipeline is the real one. ``published`` holds every
    event that the app published, in order; ``dead_letters`` every dead letter; ``faults`` injects failures (`Faults`).
    """

    __test__ = False  # the name is for people; pytest collects nothing here

    def __init__(self, app: App) -> None:
        self.app = app
        self.published: list[Event] = []
        self.dead_letters: list[DeadLetter] = []
        self.faults = Faults()
        self.exit_code: int | None = None
        self._time = VirtualTime()
        self._broker = MemoryBroker()
        self._names: set[str] = set()
        self._stack = AsyncExitStack()
        self._changed = asyncio.Event()
        self._worker: Worker | None = None

    async def __aenter__(self) -> TestApp:
        settings = Settings.resolve(self.app._arguments, {})
        compiled = self.app.compile(settings)
        for one in compiled:
            one.handler.signature = self.faults.around(one.handler)
        store = open_store("memory://", app=self.app.name)
        self._broker.on_publish = self._publishing
        worker = Worker(
            self.app.name,
            compiled,
            settings,
            broker=self._broker,
            store=store,
            clock=Clock(self._time.now),
            fatal=self._stop,
            substitute=self._source,
        )
        self._time.install()
        self._stack.callback(self._time.remove)
        try:
            await worker.open()
            assert worker.runtime is not None
            worker.runtime.ledger = self.faults.ledger(store.ledger)
            for runner in worker.runtime.handlers:
                if runner.outcomes.ledger is not None:
                    runner.outcomes.ledger = worker.runtime.ledger
            worker.runtime.on_quiet = self._changed.set
            worker.runtime.on_letter = self.dead_letters.append
            worker.runtime.holding_time = self._time.hold
            await self._stack.enter_async_context(self.app.at_work(worker))
        except BaseException:
            await worker.close()
            await self._stack.aclose()
            raise
        self._worker = worker
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._worker = None
        await self._stack.aclose()

    def _stop(self, code: int) -> None:
        self.exit_code = code
        self._changed.set()

    def _source(self, compiled: Compiled, binding: Binding) -> Source:
        name = compiled.channel or compiled.declaration.name
        self._names.add(name)
        return self._broker.channel(name, binding)

    def _publishing(self, channel: str, event: Event) -> Any:
        refusal = self.faults.publishing(channel)
        if refusal is None:
            self.published.append(event)
        return refusal

    async def send(
        self,
        channel: Any,
        data_or_event: Any,
        *,
        type: str | None = None,
        subject: str | None = None,
        key: str | None = None,
        id: str | None = None,
        source: str | None = None,
        time: datetime | str | None = None,
        **extensions: Any,
    ) -> Event:
        """Send one event and wait until every handler has finished with it, retries in virtual time included.

        Parameters:
            channel: a channel's name, or the source that a handler declared.
            data_or_event: data, or an `Event` as it is to arrive.
            type, subject, key, …: attributes, as in `App.publish`.

        Returns the event as it was sent. Raises `ConfigurationError` where no handler reads the channel.
        """
        name = channel if isinstance(channel, str) else channel.name
        if name not in self._names:
            raise ConfigurationError(
                f"no handler of {self.app.name!r} reads {name!r}; handlers read {sorted(self._names)}"
            )
        attributes: Mapping[str, Any] = {
            "type": type, "subject": subject, "id": id, "source": source, "time": time, "partitionkey": key, **extensions,
        }  # fmt: skip
        event = make_event(
            data_or_event,
            app="testing",
            handler="",
            type=type or name,
            position=0,
            parent=None,
            given={name: value for name, value in attributes.items() if value is not None},
        )
        self._broker.at(name).append(event)
        await self.settled()
        return event

    async def settled(self) -> None:
        """Wait until nothing is queued, running or waiting for a retry (or the app was stopped by a handler)."""
        while self.exit_code is None and not self._quiet():
            self._changed.clear()
            await self._changed.wait()

    def _quiet(self) -> bool:
        assert self._worker is not None
        assert self._worker.runtime is not None
        for runner in self._worker.runtime.handlers:
            for subscription in runner.subscriptions:
                source: Any = subscription.source
                if source.waiting or subscription.held:
                    return False
        return True
