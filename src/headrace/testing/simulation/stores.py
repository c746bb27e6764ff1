"""The stores and the sink of a simulated world, and each process's way to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from headrace.engine.dead_letters import DeadLetter, Revision, Stored
from headrace.engine.ledger import CLAIMED, Attempts, Claim, Identity, Owner
from headrace.engine.sink import Publication, Published
from headrace.errors import PublishFailed
from headrace.stores.memory import MemoryLedger
from headrace.testing.simulation.world import World

if TYPE_CHECKING:
    from headrace.testing.simulation.process import Process

__all__ = ["Letters", "Output", "ProcessLedger", "SharedLedger"]

LEASE = 15.0
RENEW = 5.0


class SharedLedger:
    """The durable ledger: claims under leases, marks that want the claim, attempts that survive."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.claims: dict[Identity, tuple[Process, int]] = {}
        self.leases: dict[Process, float] = {}
        self.attempts: dict[Identity, Attempts] = {}
        self.checks_leases = True
        self.checks_tokens = True

    def renew(self, process: Process, now: float) -> None:
        if self.leases.get(process, now) < now:
            process.lapsed = True
            if self.world.plan.fresh_epoch:
                process.epoch += 1
        self.leases[process] = now + LEASE

    def end(self, process: Process) -> None:
        self.leases[process] = float("-inf")

    def claim(self, process: Process, identities: Sequence[Identity], now: float) -> list[Claim]:
        if self.leases.get(process, now) < now:
            self.renew(process, now)
        answers: list[Claim] = []
        for identity in identities:
            state = self.world.marked.get(identity[1])
            holder, _ = self.claims.get(identity, (None, 0))
            if state is not None:
                answers.append(Claim(state))
            elif holder is process:
                # Of an older epoch too: a process knows what it has not finished, whatever became of its lease.
                answers.append(Claim("ours"))
            elif holder is not None and self.leases.get(holder, 0.0) >= now and self.checks_leases:
                answers.append(Claim("busy"))
            else:
                if holder is not None and self.checks_leases:
                    holder.lapsed = True  # whether or not it has noticed
                self.claims[identity] = (process, process.epoch)
                failed = self.attempts.get(identity)
                answers.append(CLAIMED if failed is None else Claim("claimed", failed))
        return answers

    def mark(self, process: Process, identities: Sequence[Identity], state: str) -> list[bool]:
        answers = []
        for identity in identities:
            held = self.claims.get(identity) == (process, process.epoch)
            if not held and not self.checks_tokens:
                if self.claims.get(identity, (None, 0))[0] is not process:
                    self.world.breach(f"{process.name} marks {identity[1]}, which it has not claimed any more")
                held = True
            if held:
                self.claims.pop(identity, None)
                self.attempts.pop(identity, None)
                self.world.mark(process, identity[1], state)
            elif self.claims.get(identity, (None, 0))[0] is process:
                del self.claims[identity]  # claimed before a lapse: refused, and free
            answers.append(held)
        return answers

    def release(self, process: Process, identities: Sequence[Identity]) -> None:
        for identity in identities:
            if self.claims.get(identity, (None, 0))[0] is process:
                del self.claims[identity]


class ProcessLedger:
    """A process's way to the shared ledger, or (``shared`` is None) a ledger in its own memory."""

    def __init__(self, process: Process, shared: SharedLedger | None) -> None:
        self.durable = shared is not None
        self._process = process
        self._shared = shared
        self._own = MemoryLedger()

    async def open(self, owner: Owner) -> None:
        """The lease is taken when the process starts."""

    async def claim(self, handler: str, identities: Sequence[Identity]) -> Sequence[Claim]:
        shared = self._shared
        if shared is None:
            return await self._own.claim(handler, identities)
        claims: list[Claim] = await self._process.call(
            "ledger", lambda now: shared.claim(self._process, identities, now)
        )
        return claims

    async def mark(self, handler: str, identities: Sequence[Identity], state: str) -> Sequence[bool]:
        shared = self._shared
        if shared is None:
            answers = await self._own.mark(handler, identities, state)
            for identity, held in zip(identities, answers, strict=True):
                if held and not self._process.world.done(identity[1]):
                    self._process.world.breach(f"{self._process.name} marks {identity[1]} as {state} too early")
            return answers
        marks: list[bool] = await self._process.call(
            "ledger", lambda now: shared.mark(self._process, identities, state)
        )
        return marks

    async def record(self, handler: str, attempts: Sequence[tuple[Identity, Attempts]]) -> None:
        shared = self._shared
        if shared is None:
            await self._own.record(handler, attempts)
        else:
            await self._process.call("ledger", lambda now: shared.attempts.update(attempts))

    async def release(self, handler: str, identities: Sequence[Identity]) -> None:
        shared = self._shared
        if shared is None:
            await self._own.release(handler, identities)
        else:
            await self._process.call("ledger", lambda now: shared.release(self._process, identities))

    async def forget(self, handler: str, identities: Sequence[Identity]) -> None:
        await self._own.forget(handler, identities)

    async def close(self) -> None:
        """The lease ends with the process."""


class Letters:
    """Dead letters: durable, whatever becomes of the processes."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def open(self) -> None:
        """Always open."""

    async def put(self, letters: Sequence[DeadLetter]) -> Sequence[Exception | None]:
        world = self._process.world

        def store(now: float) -> list[Exception | None]:
            for letter in letters:
                world.buried(letter.event_id)
            return [None] * len(letters)

        stored: Sequence[Exception | None] = await self._process.call("letters", store)
        return stored

    async def get(self, id: str) -> Stored | None:
        return None

    async def scan(self, app: str, *, handler: str | None = None) -> AsyncIterator[Stored]:
        nothing: tuple[Stored, ...] = ()
        for stored in nothing:
            yield stored

    async def update(self, letter: DeadLetter, revision: Revision) -> bool:
        return False

    async def counts(self, app: str) -> dict[str, tuple[int, float]]:
        return {}

    async def close(self) -> None:
        """Nothing to close."""


class Output:
    """The sink: an output counts when the broker has it, whether or not its confirmation arrives."""

    name = "simulated:out"

    def __init__(self, process: Process) -> None:
        self._process = process

    async def open(self) -> None:
        """Always open."""

    async def publish(self, publications: Sequence[Publication]) -> Sequence[Published | Exception]:
        process = self._process
        world = process.world

        def accept(now: float) -> list[Published | Exception]:
            results: list[Published | Exception] = []
            for publication in publications:
                parent = publication.event["causationid"]
                results.append(Published(duplicate=parent in world.outputs))
                world.outputs.add(parent)
            return results

        try:
            answers: Sequence[Published | Exception] = await process.call("sink", accept, PublishFailed)
        except PublishFailed as error:
            return [error] * len(publications)
        return answers

    async def close(self) -> None:
        """Nothing to close."""
