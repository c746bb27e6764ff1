"""Runs one cell: ``headrace run`` under load, killed at its fail point again and again, then judged by its history.

What is asked of a cell: every accepted event was handled or is a dead letter, the order of each key was kept, each output
arrived, and in a transactional store each effect is there once.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg

from headrace.testing.history import Fact, History, check
from tests.kubernetes.actor import Actor
from tests.matrix import load
from tests.matrix.cells import Cell
from tests.spine.process import Run, skips

__all__ = ["Servers", "run_cell"]

APP = Path(__file__).parent / "app.py"
#: Passings of the point before a kill, at most.
PASSINGS = 12
#: Seconds for everything to be handled after the load; and after that for a kill that has not happened yet.
PATIENCE, LATE = 300.0, 3.0


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers that all cells share."""

    nats: str
    kafka: str
    postgresql: str
    redis: str
    kubeconfig: Path


def run_cell(cell: Cell, servers: Servers, folder: Path, seed: int, *, kills: int, events: int) -> str:
    """Run it; one sentence that tells what happened. Raises `AssertionError` where a promise was broken."""
    folder.mkdir(parents=True)
    one = _Run(cell, servers, folder, random.Random(f"{seed} {cell}"), kills, events)
    try:
        return one.to_the_end()
    except BaseException as error:
        raise AssertionError(f"{cell} (seed {seed}): {error}") from error
    finally:
        one.run.close()


class _Run:
    def __init__(
        self, cell: Cell, servers: Servers, folder: Path, draw: random.Random, kills: int, events: int
    ) -> None:
        self.cell = cell
        self.servers = servers
        self.folder = folder
        self.name = f"m{uuid4().hex[:10]}"
        self.effects = f"effects_{self.name}"
        few = cell.point in ("parked", "deadlettered")
        most = 4 if few or cell.source == "kubernetes" else PASSINGS
        self.points = [f"{cell.point}:{draw.randint(1, most // 2 if few else most)}" for _ in range(kills)]
        (folder / "points").write_text("\n".join(self.points))
        self.sent = load.orders(events, trouble=cell.source != "http-sync")
        broker, environment = self._environment()
        self.run = Run(folder, broker or "", app=APP, **environment)
        self.history = History(self.run.history)
        self.dead: set[str] = set()

    def _environment(self) -> tuple[str | None, dict[str, str | None]]:
        cell, servers = self.cell, self.servers
        needs_broker = cell.outputs or cell.source in ("nats", "kafka", "http-durable")
        broker = (servers.kafka if cell.source == "kafka" else servers.nats) if needs_broker else None
        stores: Mapping[str, str | None] = {
            "memory": None,
            "sqlite": f"sqlite:///{self.folder}/store.db",
            "postgresql": servers.postgresql,
            "redis": servers.redis,
        }
        environment: dict[str, str | None] = {
            "HEADRACE_BROKER": broker,
            "HEADRACE_STORE": stores[cell.backend],
            "HEADRACE_KAFKA_SESSION_TIMEOUT_MS": "3000",
            "HEADRACE_KAFKA_HEARTBEAT_INTERVAL_MS": "500",
            "HEADRACE_KAFKA_GROUP_PROTOCOL": "classic",
            "HEADRACE_READY_WITHIN": "60",
            "KUBECONFIG": str(servers.kubeconfig),
            "NAMESPACE": self.name,
            "NAME": self.name,
            "SOURCE": cell.source,
            "OUTPUTS": f"{self.name}.billed" if cell.outputs else None,
            "EFFECTS": self.effects if cell.transactional else None,
        }
        return broker, environment

    def to_the_end(self) -> str:
        cell = self.cell
        if cell.transactional:
            self._sql(f"CREATE TABLE {self.effects} (id text)")
        begun = time.monotonic()
        doomed = asyncio.run(self._load())
        self._wait(doomed)
        code = self.run.stop(within=60)
        assert code == 0, f"it ended with {code}: {self.run.text()[-3000:]}"
        kills = self.kills()
        assert kills, f"{self.points} was never passed: {self.run.text()[-2000:]}"
        return f"{cell}: {kills} kills at {', '.join(self.points)}; {self._judged()}; {time.monotonic() - begun:.1f} s"

    async def _load(self) -> set[str]:
        """Start it and send everything; the ids of those that cannot be handled."""
        cell, servers = self.cell, self.servers
        doomed = {order.id for order in self.sent if order.dies}
        if cell.source in ("nats", "kafka"):
            self.run.start()
            url = servers.kafka if cell.source == "kafka" else servers.nats
            await load.publish(url, f"{self.name}.created", self.sent, self.history)
        elif cell.source == "kubernetes":
            actor = Actor(servers.kubeconfig)
            actor.namespace = self.name
            await actor.begin()
            self.run.start()
            # Only what is watched is told state by state.
            self.run.until(self.run.ready, "it is not ready", within=PATIENCE)
            try:
                states = await load.apply(actor, self.sent, self.history)
            finally:
                await actor.close()
            doomed = {id for id, order in states.items() if order.dies}
        else:
            self.run.start()
            self.run.until(lambda: "listening http=" in self.run.text(), "it does not listen", within=PATIENCE)
            await load.post(self.run, self.sent, self.history)
        return doomed

    def kills(self) -> int:
        return self.run.text().count("crashed (signal SIGKILL")

    def _wait(self, doomed: set[str]) -> None:
        """Until everything has come to its end, and the kills too, as far as the point is still passed."""
        end = time.monotonic() + PATIENCE
        late = None
        while True:
            owed = self._owed(doomed)
            if not owed and self.kills() == len(self.points):
                return
            if not owed:
                late = late or time.monotonic() + LATE
                if time.monotonic() > late:
                    return
            else:
                late = None
            assert not self.run.ended, f"it ended: {self.run.text()[-3000:]}"
            assert time.monotonic() < end, f"{len(owed)} not handled ({sorted(owed)[:5]}): {self.run.text()[-3000:]}"
            time.sleep(0.2)

    def _owed(self, doomed: set[str]) -> set[str]:
        facts = self.run.facts()
        accepted = {fact.id for fact in facts if fact.what == "published"}
        owed = accepted - doomed - {fact.id for fact in facts if fact.what == "handled" and not fact.handler}
        if not owed and self.cell.outputs:
            owed = accepted - doomed - {fact.id for fact in facts if fact.handler == "seen"}
        if not owed and not self.dead >= accepted & doomed:
            self.dead = self._dead()
            owed = (accepted & doomed) - self.dead
            time.sleep(1.0 if owed else 0.0)
        return owed

    def _dead(self) -> set[str]:
        """The events of the dead letters, as ``headrace dlq ls`` has them."""
        listing = subprocess.run(
            [sys.executable, "-m", "headrace", "dlq", "ls", "--app", self.name, "--handler", "bill", "--json"],
            env=self.run.environment, cwd=self.folder, capture_output=True, text=True,
        )  # fmt: skip
        assert listing.returncode in (0, 3), listing.stderr
        ids = {json.loads(line)["event_id"] for line in listing.stdout.splitlines()}
        return {id.rpartition(":")[0] for id in ids} if self.cell.source == "kubernetes" else ids

    def _sql(self, statement: str) -> list[tuple[str]]:
        if self.cell.backend == "sqlite":
            connection = sqlite3.connect(self.folder / "store.db", isolation_level=None)
            try:
                return connection.execute(statement).fetchall()
            finally:
                connection.close()
        with psycopg.connect(self.servers.postgresql, autocommit=True) as postgres:
            cursor = postgres.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _judged(self) -> str:
        facts = self.run.facts()
        dead = self.dead or self._dead()
        facts += [Fact("dead", id, None, handler) for id in dead for handler in ("", "seen")]
        if self.cell.transactional:
            facts += [Fact("effect", id) for (id,) in self._sql(f"SELECT id FROM {self.effects}")]
        found = check(facts, effects=self.cell.transactional)
        assert found.ok, str(found)
        if self.cell.source == "kubernetes":
            self._check_states(facts)
        if self.cell.outputs:
            outputs = check(facts, handler="seen")
            # An output may come twice where the broker does not recognise it: never before an earlier one came at all.
            assert not outputs.lost, f"outputs: {outputs}"
            assert not skips(outputs), f"outputs: {outputs}"
        return str(found)

    @staticmethod
    def _check_states(facts: list[Fact]) -> None:
        """States of an object are skipped, never reordered: versions grow while a process lives."""
        newest: Counter[tuple[str, str]] = Counter()
        for fact in facts:
            if fact.what == "handled" and not fact.handler:
                uid, _, version = fact.id.partition(":")
                place = (fact.process, uid)
                assert int(version) > newest[place], f"{fact} came after version {newest[place]}"
                newest[place] = int(version)
