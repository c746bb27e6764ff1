"""How a store suite opens stores: by URL, in this process or in one that it may kill, stop and let go on."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from headrace.engine.ledger import Identity, Owner

if TYPE_CHECKING:
    from headrace.stores import Store

__all__ = ["Claimant", "StoreSuite", "make_store"]

_numbers = itertools.count(1)


def make_store(factory: str, url: str, *, lease: float | None = None) -> Store:
    """``factory`` is ``module:function``, called as `headrace.stores.open_store` is. ``lease`` in seconds, renewed at a
    third of it; ``None``: the store's own."""
    module, _, name = factory.partition(":")
    store: Store = getattr(import_module(module), name)(url, app="conformance")
    if lease is not None:
        ledger: Any = store.ledger
        ledger.lease, ledger.renew = lease, lease / 3
    return store


class StoreSuite:
    """What every store suite needs.

    ``url``: an empty store of the running test's own, set by a fixture of the subclass.
    ``factory``: ``module:function`` that makes a store of a URL, importable in another process as well.
    """

    url: str
    factory: ClassVar[str] = "headrace.stores:open_store"

    def owner(self, id: str = "") -> Owner:
        """A process as the store knows it: a new one at each call."""
        return Owner("conformance", id or f"owner-{next(_numbers)}-{os.getpid()}", os.getpid(), socket.gethostname())

    @asynccontextmanager
    async def opened(self, *, owner: Owner | None = None, lease: float | None = None) -> AsyncIterator[Store]:
        """The store of ``url``, open until the block ends."""
        store = make_store(self.factory, self.url, lease=lease)
        await store.open(owner or self.owner())
        try:
            yield store
        finally:
            await store.close()

    @asynccontextmanager
    async def claimant(self, *, lease: float | None = None) -> AsyncIterator[Claimant]:
        """Another process with the store open."""
        claimant = await Claimant.start(self.factory, self.url, lease)
        try:
            yield claimant
        finally:
            await claimant.kill()


class Claimant:
    """A process that has the store open and does as it is told, until it is killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, factory: str, url: str, lease: float | None) -> Claimant:
        """Returns when the store is open over there."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "headrace.testing.conformance.claimant",
            factory,
            url,
            str(lease or ""),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        claimant = cls(process)
        try:
            ready = await claimant._answer()
            assert ready == "open", ready
        except BaseException:
            await claimant.kill()
            raise
        return claimant

    async def call(self, operation: str, handler: str, *arguments: Any) -> Any:
        """An operation of its ledger; identities in, plain lists out."""
        self.ask(operation, handler, *arguments)
        return await self._answer()

    def ask(self, operation: str, handler: str, *arguments: Any) -> None:
        """The same, without waiting for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode([operation, handler, *arguments]) + b"\n")

    async def answer(self) -> Any:
        """The answer to an `ask`."""
        return await self._answer()

    async def claim(self, handler: str, identities: Sequence[Identity]) -> list[str]:
        """The states of its claims."""
        answers: list[list[Any]] = await self.call("claim", handler, identities)
        return [state for state, _ in answers]

    async def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 30)
        assert line, "the other process ended by itself; its error is above"
        return msgspec.json.decode(line)

    def stop(self) -> None:
        """SIGSTOP: it holds what it holds and does nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
