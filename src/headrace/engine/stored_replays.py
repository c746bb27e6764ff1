"""Replays of an app without a broker: the letters that its own store holds in state ``replaying`` are the channel.

Whoever replays a letter marks it; the app's worker, the only one of its file, looks for such letters, notes that it has
taken one, and marks it ``replayed`` once its handler is done with it. A crash in between leaves it ``replaying``: the next
worker takes it again, under the same replay number.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from headrace.engine.delivery import Delivery, Outcome
from headrace.engine.replays import TAKEN, audited
from headrace.engine.source import Credit, Progress
from headrace.errors import InvalidEvent, StoreUnavailable, words

if TYPE_CHECKING:
    from headrace.engine.dead_letters import DeadLetter, DeadLetterStore, Stored
    from headrace.event import Event

__all__ = ["ReplayStore", "StoredReplay", "StoredReplays"]

log = logging.getLogger("headrace.engine")

#: Seconds between looks into the store.
EVERY: Final = 1.0


@runtime_checkable
class ReplayStore(Protocol):
    """A dead-letter store of one worker, which finds its letters that are to be replayed."""

    async def replaying(self, app: str, handler: str, limit: int) -> Sequence[Stored]:
        """The handler's letters in state ``replaying``, oldest first, ``limit`` at most."""
        ...


class StoredReplay(Delivery):
    """The replay of one letter."""

    __slots__ = ("letter",)

    letter: DeadLetter

    @property
    def metadata(self) -> Mapping[str, str | int | float]:
        """What the letter kept of where its event came from, and ``letter``, its id."""
        return {**self.letter.origin, "letter": self.letter.id}


class StoredReplays:
    """The source of one handler's replays.

    Parameters:
        letters: the store. find: the same, as what finds letters to be replayed. by: the worker's name in the audit.
    """

    keeps_order = True
    extend_every: float | None = None

    def __init__(self, letters: DeadLetterStore, find: ReplayStore, *, app: str, handler: str, by: str) -> None:
        self.name = f"replay:{handler}"
        self._letters = letters
        self._find = find
        self._app = app
        self._handler = handler
        self._by = by
        self._under_way: set[str] = set()
        self._done: list[str] = []
        self._trouble = ""

    async def open(self) -> None:
        """The store is open."""

    @staticmethod
    def default_key(delivery: StoredReplay) -> str | None:
        """The lane of the original delivery, where it had one."""
        return delivery.letter.key

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Letters that are to be replayed, as soon as there are any."""
        while True:
            try:
                batch = await self._take(credit)
                self._trouble = ""
            except StoreUnavailable as error:
                batch, self._trouble = [], str(error)
            if batch:
                return batch
            await asyncio.sleep(EVERY)

    async def _take(self, credit: Credit) -> list[Delivery]:
        batch: list[Delivery] = []
        space = credit.bytes
        limit = credit.items + len(self._under_way)
        for letter, revision in await self._find.replaying(self._app, self._handler, limit):
            if letter.id in self._under_way:
                continue
            try:
                event: Event = letter.replayed()
            except InvalidEvent as error:
                log.error("handler %s: a replay cannot be: %s", self._handler, words(error))
                failed = audited(letter, "dead", by=self._by, reason=f"replay failed: {words(error)}", state="dead")
                await self._letters.update(failed, revision)
                continue
            size = len(event.raw or b"") + 256
            if batch and (size > space or len(batch) == credit.items):
                break
            taken = audited(letter, TAKEN, by=self._by)
            try:
                ours = await self._letters.update(taken, revision)
            except StoreUnavailable:
                if not batch:
                    raise
                break  # those before it are taken, and must be handed over
            if ours:
                space -= size
                delivery = StoredReplay(self, event, size)
                delivery.letter = taken
                self._under_way.add(letter.id)
                batch.append(delivery)
        return batch

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """What ended is marked with the next flush; what comes again is found again."""
        assert isinstance(delivery, StoredReplay)
        if outcome.kind in ("hand_back", "retry"):
            self._under_way.discard(delivery.letter.id)
        else:
            self._done.append(delivery.letter.id)

    async def flush(self) -> Sequence[Delivery]:
        """Mark what has ended as replayed. Raises `StoreUnavailable`; it is done with the next flush then."""
        while self._done:
            id = self._done[0]
            while True:
                stored = await self._letters.get(id)
                if stored is None or stored.letter.state != "replaying":
                    break
                ended = audited(stored.letter, "replayed", by=self._by, state="replayed")
                if await self._letters.update(ended, stored.revision):
                    break
            self._done.remove(id)
            self._under_way.discard(id)
        return ()

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing expires."""

    async def close(self) -> None:
        """The store is closed by the worker."""

    def progress(self) -> Progress:
        return Progress(connected=not self._trouble, detail=self._trouble)
