"""``headrace run`` looks after its workers: what crashed comes back, what meant to end ends all, and nobody outlives it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.servers.nats import Nats
from tests.spine.conftest import Start
from tests.spine.process import Run, orders, publish, publish_jobs, verdict


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def workers_of(run: Run) -> list[int]:
    """The pids that have a control socket."""
    return sorted(int(path.stem.rpartition("-")[2]) for path in (run.folder / ".headrace").glob("spine-*.sock"))


def test_a_worker_that_was_killed_is_started_again_with_a_growing_delay(start: Start) -> None:
    run = start()
    publish(run, orders(50, 5))
    run.until_handled(50)
    address = run.address()
    for crash in range(3):
        (worker,) = run.workers()
        os.kill(worker, signal.SIGKILL)
        run.until(lambda crash=crash: f"SIGKILL, {crash + 1} in a row" in run.text(), "the crash is not told")
        run.until(lambda worker=worker: run.workers() not in ([], [run.process.pid], [worker]), "no new worker")
        run.until(run.ready, "not ready again")
    assert run.address() == address, "the port stays the same"
    delays = [float(text) for text in re.findall(r"started again in ([\d.]+) s", run.text())]
    assert delays == sorted(delays)
    assert delays[-1] > delays[0]
    publish(run, orders(50, 5, first=50))
    run.until_handled(100)
    assert run.stop() == 0
    assert verdict(run).ok


def test_several_workers_share_the_work_behind_one_metrics_port(start: Start) -> None:
    run = start(app="jobs", arguments=["--workers", "2"], WORK="0.01")
    run.until(lambda: len(workers_of(run)) == 2 and run.ready(), "the workers are not ready")
    publish_jobs(run, [f"j{number}" for number in range(400)])
    run.until_handled(400)
    run.until(
        lambda: run.metric("events_processed_total", handler="work", outcome="ok") == 400, "the metrics are not the sum"
    )
    pids = {fact.process.partition(".")[0] for fact in run.facts() if fact.what == "handled"}
    assert len(pids) == 2, "both did some of it"
    first, second = workers_of(run)
    os.kill(first, signal.SIGKILL)
    run.until(lambda: "started again" in run.text(), "the crash is not told")
    publish_jobs(run, [f"k{number}" for number in range(100)])
    run.until_handled(500)
    run.until(lambda: run.ready() and second in workers_of(run), "not ready again")
    assert run.stop() == 0
    assert verdict(run).ok


def test_workers_die_with_a_supervisor_that_is_killed(start: Start) -> None:
    run = start(app="jobs", arguments=["--workers", "2"])
    run.until(lambda: len(workers_of(run)) == 2 and run.ready(), "the workers are not ready")
    below = run.pids()[1:]
    assert len(below) == 3
    run.process.kill()
    run.process.wait()
    while any(alive(pid) for pid in below):
        os.sched_yield()


def test_an_exit_of_the_apps_own_making_ends_the_supervisor_with_its_code(tmp_path: Path, start: Start) -> None:
    app = tmp_path / "stops.py"
    app.write_text(
        "from headrace import App, Retry\n"
        "app = App('spine')\n"
        "@app.on('order.created', retry=Retry(attempts=1, on_exhausted='stop'))\n"
        "async def bill(order: dict) -> None:\n"
        "    raise ValueError('this must stop the app')\n"
    )
    run = start(app=app)
    publish(run, orders(1, 1))
    assert run.exit_code() == 1
    assert "started again" not in run.text()


def test_sys_exit_in_a_handler_is_a_crash_that_is_dead_lettered(tmp_path: Path, start: Start) -> None:
    app = tmp_path / "exits.py"
    app.write_text(
        "import sys\n"
        "from headrace import App, Event, Retry\n"
        "app = App('spine')\n"
        "@app.on('order.created', key='customer', retry=Retry(attempts=1))\n"
        "async def bill(order: dict, event: Event) -> None:\n"
        "    if order['kind']:\n"
        "        sys.exit(3)\n"
    )
    run = start(app=app)
    publish(run, [("o0", "ann", ""), ("o1", "ann", "exit"), ("o2", "ann", "")])
    run.until(lambda: bool(run.letters()), "no dead letter", within=100)
    (letter,) = run.letters()
    assert letter["event_id"] == "o1"
    assert letter["exception"].endswith("WorkerDied"), letter
    assert run.stop() == 0


def test_a_sqlite_file_has_one_worker_at_a_time(tmp_path: Path, nats: Nats, start: Start) -> None:
    store = f"sqlite:///{tmp_path}/ledger.db"
    first = start(name="first", HEADRACE_STORE=store)
    first.until(first.ready, "not ready")
    (holder,) = first.workers()
    second = start(name="second", HEADRACE_STORE=store)
    assert second.exit_code() == 5
    assert f"{tmp_path}/ledger.db: the worker with pid {holder} owns this file" in second.text()
    several = start(name="several", arguments=["--workers", "2"], HEADRACE_STORE=store)
    assert several.exit_code() == 5
    assert f"{store} is a SQLite file" in several.text()
    assert f"the worker with pid {holder} owns it now" in several.text()
    letters = start(name="letters", HEADRACE_DEAD_LETTERS=store)
    assert letters.exit_code() == 5
    assert f"pid {holder}" in letters.text()
    assert "Traceback" not in second.text() + several.text() + letters.text()
    first.kill()
    successor = start(name="successor", HEADRACE_STORE=store)
    successor.until(successor.ready, "a dead owner holds the file")
    assert successor.stop() == 0


def test_letters_in_a_sqlite_file_are_looked_after_beside_the_running_worker(tmp_path: Path, start: Start) -> None:
    letters = f"sqlite:///{tmp_path}/letters.db"
    run = start(HEADRACE_DEAD_LETTERS=letters)
    publish(run, [("o0", "ann", "rejected"), ("o1", "ann", ""), ("o2", "bob", "rejected")])
    run.until(lambda: len(run.letters()) == 2, "no dead letters")
    first, second = run.letters()

    def dlq(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "headrace", "dlq", *arguments, "--app", "spine"]
        return subprocess.run(command, env=run.environment, cwd=run.folder, capture_output=True, text=True)

    edited = dlq("edit", first["id"], "-d", '{"customer": "ann", "kind": ""}', "--reason", "mended")
    assert edited.returncode == 0, edited.stderr
    replayed = dlq("replay", first["id"])
    assert replayed.returncode == 0, replayed.stderr
    assert dlq("drop", second["id"], "--reason", "not wanted").returncode == 0
    run.until(lambda: {"o0", "o1"} <= run.handled(), "the replayed one was not handled")
    assert run.letters() == []
    assert run.stop() == 0


def test_replicas_without_sqlite_share_a_folder(start: Start) -> None:
    replicas = [start(app="jobs", name=f"replica{number}") for number in range(2)]
    for replica in replicas:
        replica.until(replica.ready, "not ready")
    replicas[0].until(lambda: len(workers_of(replicas[0])) == 2, "not one socket each")
    assert [replica.stop() for replica in replicas] == [0, 0]
    assert workers_of(replicas[0]) == []
