"""What ledgers on a server have in common: many processes share it, and an answer may be lost on its way.

The server's rows say who holds a claim; what this process was told of its own claims is kept here. So a call that is repeated
after a lost answer finds its own work and goes on, and a second delivery of an event that is in progress here is told apart
from it. Identities become digests: a fixed size on the server whatever a producer puts into an id.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from headrace.engine.ledger import CLAIMED, Attempts, Claim, Identity, Owner
from headrace.errors import HeadraceError

__all__ = ["LEASE", "RENEW", "RETENTION", "SharedLedger", "digests"]

log = logging.getLogger("headrace.stores")

#: Seconds that a mark is kept (7 days), that a lease lasts, and between its renewals.
RETENTION: Final = 7 * 86400.0
LEASE: Final = 15.0
RENEW: Final = 5.0

_OURS: Final = Claim("ours")
_KNOWN: Final = {state: Claim(state) for state in ("busy", "done", "dead", "dropped")}


def digests(scope: str, identities: Sequence[Identity]) -> list[bytes]:
    """The keys of some events of one handler: 16 bytes each (BLAKE2b). ``scope`` is ``<app>__<handler>``."""
    blake = hashlib.blake2b
    start = f"{scope}\0".encode()
    return [
        blake(start + f"{len(source)}:{source}{id}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
        for source, id in identities
    ]


class SharedLedger(ABC):
    """See `headrace.engine.ledger.Ledger`. ``lease``, ``renew`` and ``retention`` in seconds, set before `open`.

    A subclass talks to its server in the methods that begin with ``_``: each is one round trip for a whole batch of
    different keys, may be repeated without harm, and raises `StoreUnavailable` in an outage.
    """

    def __init__(self, app: str, *, beside: bool = False) -> None:
        self.durable = True
        self.lease = LEASE
        self.renew = RENEW
        self.retention = RETENTION
        self.app = app
        self._beside = beside
        self._held: dict[str, set[Identity]] = {}
        self._renewal: asyncio.Task[None] | None = None

    def scope(self, handler: str) -> str:
        """The first part of every key."""
        return f"{self.app}__{handler}"

    def held(self, handler: str) -> set[Identity]:
        """What this process knows as its own and unfinished."""
        return self._held.setdefault(handler, set())

    async def open(self, owner: Owner) -> None:
        """Take a lease and renew it until the end. Nothing of it for one that only looks beside."""
        if self._beside:
            return
        await self._begin_lease(owner)
        self._renewal = asyncio.get_running_loop().create_task(self._renew_always())

    async def _renew_always(self) -> None:
        while True:
            await asyncio.sleep(self.renew)
            try:
                await self._renew_lease()
            except HeadraceError as error:
                # Also a refusal: passwords are rotated, a database is made anew. It may be over at the next attempt.
                log.warning("the lease of this process cannot be renewed: %s", error)

    async def claim(self, handler: str, identities: Sequence[Identity]) -> Sequence[Claim]:
        held = self.held(handler)
        batch = set(identities)
        if len(batch) == len(identities) and held.isdisjoint(batch):
            answers: list[Claim] = [CLAIMED] * len(identities)
            taken = list(identities)
        else:
            answers, taken, seen = [], [], set()
            for identity in identities:
                if identity in held or identity in seen:
                    answers.append(_OURS)
                else:
                    seen.add(identity)
                    taken.append(identity)
                    answers.append(CLAIMED)
            batch = seen
        if not taken:
            return answers
        # Held from now on: whoever asks for the same meanwhile waits for this answer.
        held |= batch
        try:
            known = await self._claim(digests(self.scope(handler), taken))
        except BaseException:
            held -= batch
            raise
        if not known:
            return answers
        found = {taken[index]: answer for index, answer in known.items()}
        for index, identity in enumerate(identities):
            answer = found.get(identity)
            if answer is None:
                continue
            state, attempts = answer
            if state != "claimed":
                held.discard(identity)
                answers[index] = _KNOWN[state]
            elif answers[index] is CLAIMED and attempts is not None:
                answers[index] = Claim("claimed", attempts)
        return answers

    async def mark(self, handler: str, identities: Sequence[Identity], state: str) -> Sequence[bool]:
        held = self.held(handler)
        ours = identities if held.issuperset(identities) else [each for each in identities if each in held]
        if not ours:
            return [False] * len(identities)
        refused = await self._mark(digests(self.scope(handler), ours), state)
        held.difference_update(ours)
        if not refused and len(ours) == len(identities):
            return [True] * len(identities)
        good = set(ours) - {ours[index] for index in refused}
        return [identity in good for identity in identities]

    async def record(self, handler: str, attempts: Sequence[tuple[Identity, Attempts]]) -> None:
        if attempts:
            keys = digests(self.scope(handler), [identity for identity, _ in attempts])
            await self._record({key: failed for key, (_, failed) in zip(keys, attempts, strict=True)})

    async def release(self, handler: str, identities: Sequence[Identity]) -> None:
        held = self.held(handler)
        ours = held.intersection(identities)
        if ours:
            # Still held until it is done: a claim that comes meanwhile waits.
            await self._release(digests(self.scope(handler), list(ours)))
            held -= ours

    async def forget(self, handler: str, identities: Sequence[Identity]) -> None:
        if identities:
            await self._forget(digests(self.scope(handler), identities))

    def ended(self, handler: str, identity: Identity) -> None:
        """A transaction has finished this event."""
        self.held(handler).discard(identity)

    async def close(self) -> None:
        """End the lease: with it every claim of this process is free."""
        renewal, self._renewal = self._renewal, None
        self._held.clear()
        if renewal is None:
            return
        renewal.cancel()
        await asyncio.gather(renewal, return_exceptions=True)
        try:
            await self._end_lease()
        except HeadraceError as error:
            log.warning("the lease of this process could not be ended, it runs out in %g s: %s", self.lease, error)

    @abstractmethod
    async def _begin_lease(self, owner: Owner) -> None: ...

    @abstractmethod
    async def _renew_lease(self) -> None: ...

    @abstractmethod
    async def _end_lease(self) -> None: ...

    @abstractmethod
    async def _claim(self, keys: list[bytes]) -> dict[int, tuple[str, Attempts | None]]:
        """Claim each. Answers by index, only where the key is not simply claimed with nothing recorded. What this process
        holds already on the server (an answer was lost) is claimed."""

    @abstractmethod
    async def _mark(self, keys: list[bytes], state: str) -> set[int]:
        """Finish each; the indexes of those whose claim is no longer this process's."""

    @abstractmethod
    async def _record(self, attempts: dict[bytes, Attempts]) -> None: ...

    @abstractmethod
    async def _release(self, keys: list[bytes]) -> None: ...

    @abstractmethod
    async def _forget(self, keys: list[bytes]) -> None: ...
