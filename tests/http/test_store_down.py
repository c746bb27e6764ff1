"""A receiver whose ledger does not answer: its senders are told so within a bounded time, and nothing is lost or stuck."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace import App, Event
from headrace.errors import StoreUnavailable
from headrace.http import Receiver
from headrace.observe.health import readiness
from headrace.stores.memory import MemoryLedger
from tests.http.test_app import running


@pytest.mark.parametrize("operation", ["claim", "mark"])
async def test_a_store_that_does_not_answer_is_a_503_within_a_bounded_time(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App("shop", store="memory://")
    calls: list[str] = []

    @app.on(Receiver("/events"), timeout=0.3)
    async def received(event: Event) -> None:
        calls.append(event.id)

    async with running(app) as served:
        worker = app._worker
        assert worker is not None
        up = getattr(MemoryLedger, operation)

        async def down(*arguments: Any) -> Any:
            raise StoreUnavailable("nobody answers")

        monkeypatch.setattr(MemoryLedger, operation, down)
        async with asyncio.timeout(30):
            replies = await asyncio.gather(*(served.post(ce_id=str(number)) for number in range(3)))
        assert [(reply.status, reply.headers["retry-after"]) for reply in replies] == [(503, "1")] * 3
        verdict = readiness(worker.runtime)
        assert not verdict.good
        assert any("waits for the store: nobody answers" in reason for reason in verdict.body["reasons"])

        monkeypatch.setattr(MemoryLedger, operation, up)
        async with asyncio.timeout(30):
            while not readiness(worker.runtime).good:
                await asyncio.sleep(0.01)
            # The claims are free again, or the events finished: each is handled, and once.
            for number in range(3):
                while (await served.post(ce_id=str(number))).status != 204:
                    await asyncio.sleep(0.01)
        assert sorted(calls) == ["0", "1", "2"]
