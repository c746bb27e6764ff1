"""Pods that come, change, go and come back under the same name, while the API server and the watching app are killed.

The app is ``headrace run`` with a durable store; its handler writes one line for every event. After each kill of the app
its checkpoint is read from the store, so that what is told again can be compared with what had been saved.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from headrace.engine.ledger import Owner
from headrace.errors import ConnectionFailed
from headrace.kubernetes.status import ApiError
from headrace.stores import open_store
from tests.kubernetes.actor import Actor
from tests.servers.apiserver import ApiServer
from tests.spine.process import Run

APP = """
import asyncio, json, os
from headrace import App, Event
from headrace.kubernetes import Watch

app = App("churn")
HISTORY = os.open(os.environ["HISTORY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

@app.on(Watch("pods", namespace=os.environ["NAMESPACE"]))
async def told(event: Event) -> None:
    await asyncio.sleep(0.001)
    uid, version, how = event.id.split(":")
    line = [int(os.environ["LIFE"]), event.type.rpartition(".")[2], event["name"], uid, version, how]
    os.write(HISTORY, json.dumps(line).encode() + b"\\n")
"""


class Told(NamedTuple):
    """One line of the history. ``life``: which start of the app wrote it."""

    life: int
    verb: str
    name: str
    uid: str
    version: str
    how: str


@dataclass
class Churn:
    """One run."""

    server: ApiServer
    owner: Actor
    folder: Path
    chance: random.Random
    pods: int
    kills: int
    life: int = 0
    #: By the life that was killed: object's name to its saved (uid, version).
    saved: dict[int, dict[str, tuple[str, str]]] = field(default_factory=dict)
    #: What was on record as about to be told when the app was killed: (uid, version).
    begun: set[tuple[str, str]] = field(default_factory=set)
    made: int = 0
    removed: int = 0

    async def run(self) -> None:
        """Churn and kill, then let everything settle."""
        (self.folder / "churn_app.py").write_text(APP)
        self._start()
        over = asyncio.Event()
        share = 8
        workers = [asyncio.create_task(self._churn(index, share, over)) for index in range(share)]
        try:
            while self.made < self.pods:
                await self._check(workers)
            for _ in range(self.kills):
                await asyncio.sleep(self.chance.uniform(0.5, 2.0))
                await (self._kill_app() if self.chance.random() < 0.5 else self._kill_api())
                await self._check(workers)
            over.set()
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        await self._settle()
        self.code = await asyncio.to_thread(self._run.stop)

    def close(self) -> None:
        """Leave nothing running, however it went."""
        self._run.close()

    async def _check(self, workers: list[asyncio.Task[None]]) -> None:
        await asyncio.sleep(0.05)
        for worker in workers:
            if worker.done():
                worker.result()

    # The app

    def _start(self) -> None:
        self.life += 1
        self._run = Run(
            self.folder,
            "",
            app=self.folder / "churn_app.py",
            KUBECONFIG=str(self.server.kubeconfig),
            HEADRACE_BROKER=None,
            HEADRACE_STORE=f"sqlite:///{self.folder}/churn.db",
            HEADRACE_READY_WITHIN="60",
            NAMESPACE=self.owner.namespace,
            LIFE=str(self.life),
        ).start()

    async def _kill_app(self) -> None:
        await asyncio.to_thread(self._run.kill)
        self.saved[self.life] = await self._checkpoint()
        await asyncio.sleep(self.chance.uniform(0, 1))
        self._start()

    async def _checkpoint(self) -> dict[str, tuple[str, str]]:
        store = open_store(f"sqlite:///{self.folder}/churn.db", app="churn", beside=True)
        await store.open(Owner("churn", "reader", os.getpid(), "reader"))
        try:
            assert store.checkpoints is not None
            found = await store.checkpoints.load("churn__told")
        finally:
            await store.close()
        entries = {name.rpartition("/")[2]: value.decode().split(" ") for name, value in found.items() if "/" in name}
        # A fourth word: handed over, and not finished.
        self.begun |= {(words[0], words[1]) for words in entries.values() if len(words) == 4}
        return {name: (words[0], words[1]) for name, words in entries.items() if len(words) == 3}

    async def _kill_api(self) -> None:
        await asyncio.to_thread(self.server.kill_api)
        await asyncio.sleep(self.chance.uniform(0, 1))
        await asyncio.to_thread(self.server.start_api)

    # The pods

    async def _churn(self, index: int, share: int, over: asyncio.Event) -> None:
        chance = random.Random(self.chance.random())
        names = [f"pod-{number}" for number in range(index, self.pods, share)]
        alive: set[str] = set()
        for name in names:
            await self._insist("create", name)
            alive.add(name)
            self.made += 1
        while not over.is_set():
            name = chance.choice(names)
            if name not in alive:
                await self._insist("create", name)
                alive.add(name)
            elif chance.random() < 0.4:
                await self._insist("delete", name)
                alive.discard(name)
                self.removed += 1
                if chance.random() < 0.5:
                    await self._insist("create", name)
                    alive.add(name)
            else:
                await self._insist("patch", name, str(chance.random()))
        for name in names[: len(names) // 4]:
            if name in alive:
                await self._insist("delete", name)
                self.removed += 1

    async def _insist(self, what: str, name: str, value: str = "") -> None:
        """Until the server has said yes, or that it was done already."""
        while True:
            try:
                if what == "create":
                    await self.owner.pod(name)
                elif what == "delete":
                    await self.owner.delete("pods", name)
                else:
                    await self.owner.patch("pods", name, {"metadata": {"annotations": {"n": value}}})
                return
            except ApiError as error:
                if (what, error.code) in (("create", 409), ("delete", 404), ("patch", 404)):
                    return
                if error.code not in (401, 403, 404, 429, 409) and error.code < 500:
                    raise
            except ConnectionFailed:
                pass  # the server is down
            await asyncio.sleep(0.2)

    # The end

    async def _settle(self) -> None:
        objects = await self.owner.list("pods")
        self.final = {
            found["metadata"]["uid"]: (found["metadata"]["name"], found["metadata"]["resourceVersion"])
            for found in objects
        }
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 120
        while (amiss := self.unsettled()) and loop.time() < deadline:
            await asyncio.sleep(0.2)
            assert not self._run.ended, self.log
        assert not amiss, f"{len(amiss)} pods not as the server has them: {amiss[:5]}"
        await asyncio.sleep(0.5)  # whatever would still be told wrongly is told now

    @property
    def log(self) -> str:
        """The end of what the app said."""
        return self._run.text()[-3000:]

    def history(self) -> list[Told]:
        path = self.folder / "history"
        return [Told(*json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def unsettled(self) -> list[Any]:
        """Pods whose last word was not what the server has: alive with another version, or gone and not told."""
        last = {told.uid: told for told in self.history()}
        alive = [
            (name, uid)
            for uid, (name, version) in self.final.items()
            if uid not in last or last[uid].verb == "delete" or last[uid].version != version
        ]
        gone = [(told.name, uid) for uid, told in last.items() if uid not in self.final and told.verb != "delete"]
        return alive + gone

    def violations(self) -> list[str]:
        """Where the history is not one that could have been promised."""
        wrong: list[str] = []
        newest: dict[str, int] = {}
        versions: dict[str, set[str]] = {}
        ended: set[str] = set()
        known: dict[tuple[str, str], int] = {}
        current: dict[tuple[int, str], str] = {}
        for told in self.history():
            version = int(told.version)
            if told.how == "gone":
                # No state, but an end: it names the last state that was stored, which a kill may have left behind.
                if told.version not in versions.get(told.uid, ()) and (told.uid, told.version) not in self.begun:
                    wrong.append(f"an end at a version that was never told: {told}")
            elif version < newest.get(told.uid, 0):
                wrong.append(f"older than what was told: {told}, after {newest[told.uid]}")
            versions.setdefault(told.uid, set()).add(told.version)
            newest[told.uid] = max(version, newest.get(told.uid, 0))
            if told.uid in ended and told.verb != "delete":
                wrong.append(f"after its end: {told}")
            place = (told.life, told.name)
            before = current.get(place)
            if before is not None and before != told.uid and before not in ended:
                wrong.append(f"a namesake before the end of its predecessor: {told}")
            current[place] = told.uid
            identity = (told.uid, "end" if told.verb == "delete" else told.version)
            earlier = known.get(identity)
            if earlier == told.life:
                wrong.append(f"twice in one life: {told}")
            elif earlier is not None:
                wrong += self._needless(told, earlier)
            known[identity] = told.life
            if told.verb == "delete":
                ended.add(told.uid)
        return wrong

    def _needless(self, told: Told, earlier: int) -> list[str]:
        """A repetition is right only where no checkpoint since had it."""
        for life in range(earlier, told.life):
            saved = self.saved[life].get(told.name, ("", ""))
            unsaved = saved[0] == told.uid if told.verb == "delete" else saved != (told.uid, told.version)
            if not unsaved:
                return [f"told again although it was saved: {told}, first in life {earlier}"]
        return []
