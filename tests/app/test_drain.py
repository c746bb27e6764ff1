"""The end of an app: it comes in time, whatever does not answer."""

import asyncio
from typing import Any

import pytest

from headrace import App, Event
from headrace.engine.ledger import Claim
from headrace.engine.sink import Publication


async def test_a_source_that_cannot_be_closed_does_not_keep_the_process(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop", drain=10.0)

    @app.on("order.created")
    async def bill(order: dict) -> None: ...

    closed: list[Any] = []
    async with app.testing() as t:
        assert t._worker is not None
        assert t._worker.runtime is not None
        subscription, *_ = t._worker.runtime.handlers[0].subscriptions

        async def close() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                closed.append(subscription)

        subscription.source.close = close  # type: ignore[method-assign]
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await t._worker.drain()
        assert loop.time() - begun < 14.0
    assert subscription in closed
    assert "could not be closed in time" in caplog.text


class Busy:
    """A ledger in which every event is another process's, and which takes a second to say so when it is asked again."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._answers = 0

    async def claim(self, handler: str, identities: list[Any]) -> list[Claim]:
        self._answers += 1
        if self._answers > 2:
            self.asked.set()
            await asyncio.sleep(1)
        return [Claim("busy")] * len(identities)

    async def release(self, handler: str, identities: list[Any]) -> None: ...


async def test_what_waits_for_anothers_claim_is_handed_back_while_it_is_asked_for() -> None:
    app = App("shop")

    @app.on("order.created", key="customer")
    async def bill(order: dict) -> None: ...

    settled: list[str] = []
    async with app.testing() as t:
        assert t._worker is not None
        assert t._worker.runtime is not None
        runner = t._worker.runtime.handlers[0]
        ledger = Busy()
        runner.outcomes.ledger = ledger  # type: ignore[assignment]
        source = runner.subscriptions[0].source
        settle = source.settle

        def noted(delivery: Any, outcome: Any) -> None:
            settled.append(outcome.kind)
            settle(delivery, outcome)

        source.settle = noted  # type: ignore[method-assign]
        sink = t._broker.sink("order.created")
        for id in ("first", "behind it"):
            await sink.publish([Publication(Event("order.created", "/tests", {"customer": "c"}, id=id))])
            await asyncio.sleep(0.1)
        await ledger.asked.wait()
        await t._worker.drain()
        assert settled == ["hand_back", "hand_back"]
        assert not any(subscription.held for subscription in runner.subscriptions)
