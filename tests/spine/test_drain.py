"""SIGTERM under load: exit code 0, no attempt counted, nothing dead-lettered, and the successor goes on."""

import json
import signal
import threading
import urllib.error
import urllib.request
from pathlib import Path

from headrace.testing.history import History
from tests.spine.conftest import Start
from tests.spine.process import orders, verdict


def test_a_drain_under_load_ends_with_0_and_the_successor_goes_on(tmp_path: Path, start: Start) -> None:
    run = start(WORK="0.02", HEADRACE_STORE=f"sqlite:///{tmp_path}/ledger.db", backlog=orders(2000, 20))
    run.until_handled(200)
    assert run.stop() == 0
    assert len(run.handled()) < 2000, "it was over before the signal came"
    run.start()
    run.until_handled(2000)
    assert run.stop() == 0
    found = verdict(run)
    assert found.ok, found
    assert (found.repeats, found.counts["dead"]) == (0, 0), found
    assert "tried again" not in run.text()


def test_sigint_drains_as_sigterm_does_and_ends_with_130(start: Start) -> None:
    run = start(WORK="0.02", backlog=orders(1000, 20))
    run.until_handled(100)
    assert run.stop(signal.SIGINT) == 130
    run.start()
    run.until_handled(1000)
    assert run.stop() == 0
    found = verdict(run)
    assert found.ok, found
    assert (found.repeats, found.counts["dead"]) == (0, 0), found


def test_a_sigterm_before_the_app_is_ready_ends_with_0(start: Start) -> None:
    run = start("nats://127.0.0.1:1")
    run.address()
    assert run.stop() == 0


class Senders:
    """Threads that post orders to a receiver until it refuses connections, and note what was accepted."""

    def __init__(self, address: str, history: Path, count: int) -> None:
        self._url = f"http://{address}/orders"
        self._history = History(history)
        self._answers: list[int] = []
        self.accepted = 0
        self.other: list[int] = []
        self.enough = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _send(self, number: int) -> None:
        for n in range(1_000_000):
            id = f"h{number}-{n}"
            headers = {"ce-specversion": "1.0", "ce-id": id, "ce-source": "/tests", "ce-type": "order.placed"}
            body = json.dumps({"customer": f"s{number}", "kind": ""}).encode()
            request = urllib.request.Request(
                self._url, body, {**headers, "content-type": "application/json"}, method="POST"
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    status = answer.status
            except urllib.error.HTTPError as error:
                status = error.code
            except OSError:
                return  # it does not listen any more
            with self._lock:
                if 200 <= status < 300:
                    self._history.published(id)
                    self.accepted += 1
                    if self.accepted >= 100:
                        self.enough.set()
                else:
                    self.other.append(status)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a sender was left without an answer"
        self._history.close()


def test_a_drain_with_a_receiver_under_load_answers_every_request_it_took(start: Start) -> None:
    run = start(app="received")
    senders = Senders(run.address("http"), run.history, 8)
    try:
        assert senders.enough.wait(60)
        assert run.stop() == 0
    finally:
        run.close()
        senders.join()
    # What was accepted was handled before its answer; what came while it drained was told to come later.
    found = verdict(run)
    assert found.ok, found
    assert found.counts["published"] == senders.accepted >= 100
    assert set(senders.other) <= {503}, senders.other
