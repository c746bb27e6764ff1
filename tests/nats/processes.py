"""``headrace run`` on NATS while the servers are broken: a publisher that does not give up, and the verdict."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from types import TracebackType

from headrace import App
from headrace.errors import HeadraceError
from headrace.testing.history import History
from tests.spine.process import Counting, Run, disorder, verdict

CUSTOMERS = 30


class Steady:
    """Publishes orders on a thread of its own, one of each customer at a time; what is not confirmed is published again.

    Args:
        broker: its URL.
        run: whose history gets what was confirmed.
        rounds: orders of each customer, at least; it goes on until the block ends, so that no fault outlasts it.
        pace: seconds between rounds.
    """

    def __init__(self, broker: str, run: Run, *, rounds: int, pace: float = 0.05) -> None:
        self.events = 0
        self.repeated = 0
        self._run = (broker, run.history, rounds, pace)
        self._enough = threading.Event()
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="publisher")

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._enough.set()
        if kind is not None:
            self._stopped.set()
        self._thread.join(600)
        assert not self._thread.is_alive(), "the publisher did not end"
        if kind is None and self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            asyncio.run(self._publish(*self._run))
        except BaseException as error:
            self._failure = error

    async def _publish(self, broker: str, path: object, rounds: int, pace: float) -> None:
        history = History(str(path))
        app = App("publisher", broker=broker)
        for number in itertools.count():
            if self._stopped.is_set() or (number >= rounds and self._enough.is_set()):
                break
            left = {f"c{customer}": f"o{number}-{customer}" for customer in range(CUSTOMERS)}
            while left and not self._stopped.is_set():
                results = await asyncio.gather(
                    *(
                        app.publish("order.created", {"customer": customer, "kind": ""}, id=id, source="/tests")
                        for customer, id in left.items()
                    ),
                    return_exceptions=True,
                )
                for (customer, id), result in zip(list(left.items()), results, strict=True):
                    if not isinstance(result, BaseException):
                        history.published(id, customer)
                        del left[customer]
                    elif not isinstance(result, HeadraceError):
                        raise result
                if left:
                    self.repeated += len(left)
                    await asyncio.sleep(0.1)
            self.events += CUSTOMERS
            await asyncio.sleep(pace)
        await app.close()
        history.close()


def recovers(run: Run, what: str, *, within: float = 60.0) -> float:
    """Wait for the next event after a fault; how long it took, printed."""
    since = time.monotonic()
    counting = Counting(run.history)
    before = counting.count()
    run.until(lambda: counting.count() > before, f"no event handled after {what}", within=within)
    seconds = time.monotonic() - since
    print(f"{what}: next event after {seconds:.2f} s")
    return seconds


def all_is_well(run: Run, events: int, *, within: float = 120.0) -> None:
    """Everything is handled, in order, and the run drains."""
    run.until_handled(events, within=within)
    assert run.stop() == 0, run.text()[-2000:]
    found = verdict(run)
    print(found)
    assert not found.lost, found
    assert not disorder(run, found), found
    assert found.counts["dead"] == 0, found


def cpu_seconds(run: Run) -> float:
    """Processor time of a run's processes so far."""
    total = 0.0
    for pid in run.pids():
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / 100
    return total
