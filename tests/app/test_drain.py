"""The end of an app: it comes in time, whatever does not answer."""

import asyncio
from typing import Any

import pytest

from headrace import App


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
