"""Faults that a test injects into the app in memory: failing handlers, sinks that do not confirm, a store that is away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from headrace.engine.delivery import Delivery
from headrace.engine.handler import Handler
from headrace.engine.ledger import Ledger
from headrace.engine.signature import Signature
from headrace.errors import PublishFailed, StoreUnavailable

__all__ = ["Faults"]


class Faults:
    """Each call plans so many failures; they happen in turn and then it is over."""

    def __init__(self) -> None:
        self._handlers: dict[str, list[BaseException]] = {}
        self._channels: dict[str, list[PublishFailed]] = {}
        self._store = 0

    def handler(self, name: str, error: BaseException, *, times: int = 1) -> None:
        """The next ``times`` attempts of a handler raise ``error`` instead of running."""
        self._handlers.setdefault(name, []).extend([error] * times)

    def publish(self, channel: str, *, times: int = 1, transient: bool = True) -> None:
        """The next ``times`` publications to a channel are not confirmed; ``transient``: as in an outage."""
        failure = PublishFailed(f"{channel}: an injected fault", transient=transient)
        self._channels.setdefault(channel, []).extend([failure] * times)

    def store(self, *, times: int = 1) -> None:
        """The next ``times`` calls of the ledger find it away."""
        self._store += times

    # What the app in memory asks

    def publishing(self, channel: str) -> PublishFailed | None:
        planned = self._channels.get(channel)
        return planned.pop(0) if planned else None

    def around(self, handler: Handler) -> Signature:
        signature = handler.signature
        name = handler.name
        inner = signature.call

        def check() -> None:
            planned = self._handlers.get(name)
            if planned:
                raise planned.pop(0)

        call: Callable[[Delivery], Any]
        if signature.is_async:

            async def call_later(delivery: Delivery) -> Any:
                check()
                return await inner(delivery)

            call = call_later
        else:

            def call_now(delivery: Delivery) -> Any:
                check()
                return inner(delivery)

            call = call_now
        return Signature(call, signature.is_async, signature.decode, signature.wants_bytes, signature.transaction)

    def ledger(self, ledger: Ledger) -> Ledger:
        return _Away(ledger, self)

    def store_is_away(self) -> bool:
        if not self._store:
            return False
        self._store -= 1
        return True


class _Away(msgspec.Struct):
    """A ledger that is sometimes away."""

    ledger: Any
    faults: Faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.ledger, name)
        if name not in ("claim", "mark", "record", "release"):
            return found

        async def call(*arguments: Any) -> Any:
            if self.faults.store_is_away():
                raise StoreUnavailable(f"ledger ({name}): an injected fault")
            return await found(*arguments)

        return call
