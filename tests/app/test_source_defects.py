"""A source that fails in a way that is no outage ends the app in the open; it does not stand still in silence."""

import asyncio
from typing import Any

from headrace import App


async def test_a_flush_that_fails_by_a_defect_is_told_and_what_was_settled_stays_counted() -> None:
    app = App("shop", broker="memory://", store="memory://")

    @app.on("order.created")
    async def bill(order: dict) -> None: ...  # type: ignore[type-arg]

    async with app.running() as worker:
        runtime: Any = worker.runtime
        (runner,) = runtime.handlers
        subscription = runner.subscriptions[0]
        flush, defects = subscription.source.flush, [TypeError("scripted")]

        async def failing() -> Any:
            if defects:
                raise defects.pop()
            return await flush()

        subscription.source.flush = failing
        stopped = asyncio.Event()
        runtime._fatal = lambda code: stopped.set()
        await app.publish("order.created", {"number": 1})
        async with asyncio.timeout(20):
            await stopped.wait()
        assert isinstance(runtime.failure, TypeError)
        assert subscription._unflushed == 1
