"""The run itself: replicas, load and faults side by side, then peace until everything is accounted for, then the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from headrace.app import App
from headrace.errors import ConnectionFailed, HeadraceError, StoreUnavailable
from headrace.nats.embedded import Embedded
from headrace.stores.inspection import inspect_store
from headrace.testing.history import History
from headrace.testing.soak.load import Load
from headrace.testing.soak.memory import LIMIT, Memory
from headrace.testing.soak.outstanding import Outstanding
from headrace.testing.soak.plan import BROKER_FAULTS, FAULTS, Plan, Step
from headrace.testing.soak.replica import Replica
from headrace.testing.soak.report import Report, judge
from headrace.worker import create_broker

__all__ = ["Soak"]

#: Seconds without an event handled, at the end, after which what is missing counts as lost.
PATIENCE: Final = 240.0
#: Seconds within which a fault that has begun is undone.
UNDONE_WITHIN: Final = 120.0
#: Seconds of a run from which it has events that kill: each comes back some six times, after half a minute.
LONG_ENOUGH: Final = 300.0
#: Seconds between looks at the history, and between samples of memory.
LOOK: Final = 0.2
SAMPLE: Final = 5.0


class Soak:
    """One run of so many seconds.

    Args:
        folder: where the history, logs and (embedded) broker are; an empty one.
        seed: draws faults and events. seconds: of load; the end comes on top.
        broker: a URL, or ``None`` for an embedded NATS, which is killed and stopped too.
        store: a URL, or ``None`` for a SQLite file a replica. A SQLite file has one worker at a time, so naming one means
            one replica.
        rate: events published a second.
        say: told in one sentence about each fault and about what goes wrong.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        seconds: float,
        broker: str | None,
        store: str | None,
        rate: float,
        say: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.seconds = seconds
        self.name = f"soak{seed}x{int(time.time())}"
        self._seed = seed
        self._say = say
        self._store = store
        self._rate = rate
        self._server = None if broker is not None else Embedded(folder / "nats").start()
        self._broker = broker or (self._server.url if self._server is not None else "")
        self._memory = Memory(folder / "memory.csv")
        self._outstanding = Outstanding(folder / "history")
        self._steps: Counter[str] = Counter()
        self._found: list[str] = []
        self._recoveries: list[float] = []
        self._begun = time.monotonic()
        self._deadly = 0
        self._over = asyncio.Event()
        self._down = folder / "down"
        self._replicas = self._make()
        self._environment = self._variables()
        channels = (f"{self.name}.orders", f"{self.name}.jobs")
        self.load = Load(self._broker, channels, folder, rate=rate, seed=seed)

    def _variables(self) -> dict[str, str]:
        """What the processes see: nothing of ours but what a transport needs, such as credentials."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("HEADRACE_") or name.startswith(("HEADRACE_NATS_", "HEADRACE_KAFKA_"))
        }
        return {
            **kept,
            "HEADRACE_BROKER": self._broker,
            "HEADRACE_ADMIN": "127.0.0.1:0",
            "HEADRACE_LOG": "warning",
            "HEADRACE_OPERATOR": "headrace soak",
            "SOAK_APP": self.name,
            "SOAK_FOLDER": str(self.folder),
        }

    def _make(self) -> list[Replica]:
        variables = self._variables()
        if self._store is not None and self._store.startswith("sqlite:"):
            alone = {**variables, "HEADRACE_STORE": self._store}
            return [Replica("a", self.folder, mortal=True, environment=alone)]
        return [
            Replica(
                name,
                self.folder,
                mortal=mortal,
                environment={**variables, "HEADRACE_STORE": self._store or f"sqlite:///{self.folder}/{name}.db"},
            )
            for name, mortal in (("a", False), ("b", True))
        ]

    # The run

    @property
    def elapsed(self) -> float:
        """Seconds since the replicas were started."""
        return time.monotonic() - self._begun

    @property
    def line(self) -> str:
        """How far it is, in one line."""
        seen = self._outstanding
        return (
            f"{self.elapsed / 60:.1f} of {self.seconds / 60:.1f} min, {self.load.published} published, "
            f"{seen.handled} handled, {len(seen.ids)} outstanding, {sum(self._steps.values())} faults"
        )

    async def run(self, stop: asyncio.Event) -> Report:
        """Load and faults until the time is over or ``stop`` is set, then the verdict."""
        await self._reachable()
        for replica in self._replicas:
            replica.start()
        self._begun = time.monotonic()
        tasks = [asyncio.create_task(work) for work in (self.load.run(), self._harm(), self._watch())]
        stopping = asyncio.create_task(stop.wait())
        loading, harming, watching = tasks
        try:
            await asyncio.wait({stopping, loading, watching}, timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
            lasted = self.elapsed
            self._over.set()
            stopping.cancel()
            loading.cancel()
            # A fault that has begun is undone first.
            await asyncio.wait({loading, harming}, timeout=UNDONE_WITHIN)
            self._raise(loading, harming, watching)
            if not stop.is_set():
                await self._settle()
            watching.cancel()
            codes = await asyncio.gather(*(replica.drain() for replica in self._replicas))
            self._found += [
                f"replica {replica.name} ended its drain with exit code {code}: {replica.last_words()}"
                for replica, code in zip(self._replicas, codes, strict=True)
                if code
            ]
            return await self._report(lasted, cut_short=stop.is_set())
        finally:
            stopping.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.load.close()

    async def _reachable(self) -> None:
        """Raises what ``headrace run`` would end with, where broker or store cannot be had: no fault of the plan."""
        broker = create_broker(self._broker, app=self.name, settings=App(self.name).settings())
        try:
            await broker.open()
        finally:
            await broker.close()
        if self._store is not None:
            try:
                await inspect_store(self._store)
            except StoreUnavailable as error:
                raise ConnectionFailed(str(error)) from error

    def close(self) -> None:
        """Leave nothing running."""
        for replica in self._replicas:
            replica.close()
        if self._server is not None:
            self._continue_server()
            self._server.stop()

    def _raise(self, *tasks: asyncio.Task[None]) -> None:
        for task in tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise task.exception() or AssertionError

    async def _watch(self) -> None:
        sampled = 0.0
        while True:
            self._outstanding.read()
            if self.elapsed - sampled >= SAMPLE:
                sampled = self.elapsed
                for replica in self._replicas:
                    self._memory.sample(replica.name, replica.pid, sampled)
            for replica in self._replicas:
                if replica.ended is not None:
                    self._found.append(
                        f"replica {replica.name} ended unasked with {replica.ended}: {replica.last_words()}"
                    )
                    self._say(self._found[-1])
                    replica.start()
            await asyncio.sleep(LOOK)

    async def _settle(self) -> None:
        """Wait until all is handled or a dead letter; what can be replayed is replayed."""
        self._say("the load has ended; waiting until everything is accounted for")
        since, before = time.monotonic(), -1
        while time.monotonic() - since < PATIENCE:
            await asyncio.sleep(1)
            if self._outstanding.handled != before:
                since, before = time.monotonic(), self._outstanding.handled
            missing = self._outstanding.ids - self.load.kinds.keys()
            if missing:
                continue
            dead = {letter["event_id"] for letter in await self._letters()}
            if self.load.kinds.keys() - dead:
                continue
            await self._replay()
            fixable = {id for id, kind in self.load.kinds.items() if kind == "fixable"}
            if not fixable & self._outstanding.ids:
                return

    async def _report(self, lasted: float, *, cut_short: bool) -> Report:
        facts = await asyncio.to_thread(History.read, self.folder / "history")
        handlers, broken = judge(facts, await self._letters(), {} if cut_short else self.load.kinds)
        growth = self._memory.growth()
        found = self._found + ([] if cut_short else broken)
        if not growth.ok:
            found.append(f"memory grows by {growth.slope} MiB an hour, more than {LIMIT}")
        recoveries = sorted(self._recoveries) or [0.0]
        recovery = (round(recoveries[len(recoveries) // 2], 1), round(recoveries[-1], 1))
        return Report(
            self._seed, lasted, self._steps, handlers, recovery, growth, faults_found=found, cut_short=cut_short
        )

    # Faults

    async def _harm(self) -> None:
        """The plan's faults, one after the other, each undone before the next."""
        kinds = {**FAULTS, **(BROKER_FAULTS if self._server is not None else {})}
        if len(self._replicas) == 1:
            del kinds["steady worker stopped"]
        if self.seconds < LONG_ENOUGH:
            del kinds["deadly event"]
        plan = Plan(self._seed, self.seconds, kinds)
        deeds: dict[str, Callable[[Step], Awaitable[None]]] = {
            "worker killed": self._worker_killed,
            "run killed": self._run_killed,
            "worker stopped": self._worker_stopped,
            "steady worker stopped": self._worker_stopped,
            "drained": self._drained,
            "dependency down": self._dependency_down,
            "handlers paused": self._paused,
            "deadly event": self._deadly_event,
            "letters replayed": self._replayed,
            "broker killed": self._broker_restarted,
            "broker restarted": self._broker_restarted,
            "broker stopped": self._broker_stopped,
        }
        while True:
            step = plan.next()
            if self.elapsed + step.after + step.lasts > plan.until or await self._ends_within(step.after):
                return
            self._say(f"{step.fault}{f' for {step.lasts:g} s' if step.lasts else ''}")
            await deeds[step.fault](step)
            self._steps[step.fault] += 1
            healed = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._outstanding.grown(), PATIENCE)
            self._recoveries.append(time.monotonic() - healed)

    async def _ends_within(self, seconds: float) -> bool:
        """Let time pass; whether the load has ended meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)
        return self._over.is_set()

    @property
    def _mortal(self) -> Replica:
        return self._replicas[-1]

    async def _worker_killed(self, step: Step) -> None:
        self._mortal.signal_worker(signal.SIGKILL)

    async def _run_killed(self, step: Step) -> None:
        await self._mortal.kill()
        await asyncio.sleep(step.lasts)
        self._mortal.start()

    async def _worker_stopped(self, step: Step) -> None:
        replica = self._mortal if step.fault == "worker stopped" else self._replicas[0]
        replica.signal_worker(signal.SIGSTOP)
        try:
            await asyncio.sleep(step.lasts)
        finally:
            replica.signal_worker(signal.SIGCONT)

    async def _drained(self, step: Step) -> None:
        code = await self._mortal.drain()
        if code:
            self._found.append(f"a drain ended with exit code {code}: {self._mortal.last_words()}")
        await asyncio.sleep(step.lasts)
        self._mortal.start()

    async def _dependency_down(self, step: Step) -> None:
        self._down.touch()
        try:
            await asyncio.sleep(step.lasts)
        finally:
            self._down.unlink()

    async def _paused(self, step: Step) -> None:
        await self._headrace("handlers", "pause", "bill", "work", "--reason", "soak")
        try:
            await asyncio.sleep(step.lasts)
        finally:
            await self._headrace("handlers", "resume", "bill", "work", "--reason", "soak")

    async def _deadly_event(self, step: Step) -> None:
        self._deadly += 1
        await self.load.publish(f"d{self._deadly}", None, "deadly")

    async def _replayed(self, step: Step) -> None:
        await self._replay()

    async def _broker_restarted(self, step: Step) -> None:
        assert self._server is not None
        port = int(self._server.url.rpartition(":")[2])
        if step.fault == "broker killed" and self._server.pid is not None:
            os.kill(self._server.pid, signal.SIGKILL)
        self._server.stop()
        await asyncio.sleep(step.lasts)
        self._server = Embedded(self.folder / "nats", port=port).start()

    async def _broker_stopped(self, step: Step) -> None:
        assert self._server is not None
        assert self._server.pid is not None
        os.kill(self._server.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(step.lasts)
        finally:
            self._continue_server()

    def _continue_server(self) -> None:
        if self._server is not None and self._server.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._server.pid, signal.SIGCONT)

    # Hands

    async def _replay(self) -> None:
        await self._headrace("dlq", "replay", "--where", "kind = 'fixable'", "--yes", "--reason", "soak")

    async def _letters(self) -> list[dict[str, Any]]:
        letters: list[dict[str, Any]] = []
        for state in ("dead", "replaying", "replayed", "dropped"):
            listed = await self._headrace("dlq", "ls", "--json", "--state", state)
            letters += [json.loads(line) for line in listed.splitlines()]
        return letters

    async def _headrace(self, *arguments: str) -> bytes:
        """Run a command as an operator would; its output. One that finds nothing, or a process that ends, is no failure."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "headrace",
            *arguments,
            "--app",
            self.name,
            cwd=self.folder,
            env={**self._environment, "HEADRACE_STORE": "memory://"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await process.communicate()
        if process.returncode not in (0, 3, 4):
            raise HeadraceError(
                f"headrace {' '.join(arguments)} ended with {process.returncode}: {errors.decode(errors='replace')}"
            )
        return out
