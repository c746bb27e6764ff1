"""Opens the dead letters of an app beside its running workers, for the ``dlq`` commands."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from headrace.app import App
from headrace.cli.loading import load
from headrace.engine.broker import Broker
from headrace.engine.dead_letters import DeadLetterStore
from headrace.errors import ConfigurationError
from headrace.worker import Worker

__all__ = ["Letters", "opened"]


@dataclass(slots=True)
class Letters:
    """The store of letters, and the broker that replays them."""

    app: str
    store: DeadLetterStore
    broker: Broker | None


@contextlib.asynccontextmanager
async def opened(target: str) -> AsyncIterator[Letters]:
    """Open the letters of an app: a module, a file, or a bare name whose broker and store come from ``HEADRACE_*``."""
    named = ":" in target or target.endswith(".py") or "/" in target
    app = load(target) if named else App(target)
    worker = Worker(app.name, (), app.settings(), role="letters")
    try:
        await worker.open()
        if worker.dead_letters is None:
            raise ConfigurationError(f"app {app.name!r} keeps no dead letters")
        yield Letters(app.name, worker.dead_letters, worker.broker)
    finally:
        await worker.close()
