"""Events that take the process with them: each ends as a dead letter after its attempts, and takes no neighbour along."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.nats import Nats
from tests.spine.process import Publisher, Run, orders, verdict

KINDS = ("exit", "segfault", "block", "eat")
#: Resident bytes at which the watcher ends a worker, as the kernel does where memory is limited.
MEMORY = 2**30
ATTEMPTS = 2


def watch_memory(run: Run) -> None:
    """SIGKILL to a worker that holds too much."""
    while not run.ended:
        for pid in run.workers():
            try:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                if pages * os.sysconf("SC_PAGESIZE") > MEMORY:
                    os.kill(pid, signal.SIGKILL)
            except (OSError, IndexError, ValueError):
                continue  # it ended meanwhile
        time.sleep(0.02)


class Poisoned:
    """A run of its own with one deadly order among sound ones, which are published before it starts."""

    def __init__(
        self, folder: Path, server: Nats, kind: str, *, events: int, workers: int = 1, **environment: str
    ) -> None:
        folder.mkdir()
        self.kind = kind
        self.events = events
        arguments = ["--workers", str(workers)] if workers > 1 else []
        self.run = Run(folder, server.url, arguments=arguments, ATTEMPTS=str(ATTEMPTS), TIMEOUT="1", **environment)
        load = orders(events, 20)
        load.insert(events // 3, ("deadly", "c7", kind))

        async def publish() -> None:
            async with Publisher(server.url, self.run.history) as publisher:
                await publisher.orders(load)

        asyncio.run(publish())
        self.run.start()
        self.watcher = threading.Thread(target=watch_memory, args=(self.run,))
        self.watcher.start()

    def judge(self, *, ordered: bool = True) -> None:
        """The deadly one, and it alone, is a dead letter; everything else was handled."""
        run = self.run
        run.until_handled(self.events, within=400)
        run.until(lambda: bool(run.letters()), f"{self.kind}: no dead letter", within=400)
        (letter,) = run.letters()
        assert letter["event_id"] == "deadly"
        assert letter["attempts"] == ATTEMPTS
        assert letter["exception"].endswith("WorkerDied"), letter
        assert run.stop() == 0
        found = verdict(run)
        print(f"{self.kind}: {found}")
        assert not found.lost, found
        assert not (ordered and found.disorder), found
        crashes = run.text().count("it is started again")
        # The first death nobody could foresee; from then on its starts are counted.
        assert crashes == ATTEMPTS + 1, run.text()[-3000:]

    def close(self) -> None:
        self.run.close()
        self.watcher.join()


@pytest.mark.timeout(600)
def test_an_event_that_kills_the_process_is_dead_lettered_and_its_neighbours_are_handled(
    tmp_path: Path, start_nats: Callable[..., Nats]
) -> None:
    # Side by side: most of it is waiting for a watchdog or a successor.
    poisoned = [Poisoned(tmp_path / kind, start_nats(), kind, events=120) for kind in KINDS]
    try:
        for one in poisoned:
            one.judge()
        blocked = poisoned[KINDS.index("block")].run.text()
        assert "the event loop has been stalled" in blocked
        assert "_block" in blocked, "the stack is logged"
        assert "exit code 70" in blocked
    finally:
        for one in poisoned:
            one.close()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("key", "store"), [("customer", "sqlite"), ("", "memory")], ids=["keyed-sqlite", "unkeyed-memory"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_poison_under_more_load_with_and_without_a_key_and_a_durable_store(
    tmp_path: Path, nats: Nats, kind: str, key: str, store: str
) -> None:
    environment = {"KEY": key}
    if store == "sqlite":
        environment["HEADRACE_STORE"] = f"sqlite:///{tmp_path}/ledger.db"
    one = Poisoned(tmp_path / kind, nats, kind, events=3000, **environment)
    try:
        one.judge(ordered=bool(key))
    finally:
        one.close()
