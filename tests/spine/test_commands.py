"""An app's life by the commands a user types: run, send, tail, dead letters looked at, replayed and dropped, check."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Command
from tests.servers.nats import Nats
from tests.spine.conftest import Start


@pytest.fixture
def command(tmp_path: Path, nats: Nats) -> Command:
    return Command(
        tmp_path,
        HEADRACE_BROKER=nats.url,
        HEADRACE_APP=str(Path(__file__).parent / "apps" / "orders.py"),
        HISTORY=str(tmp_path / "history"),
    )


def first_line(tail: subprocess.Popen[str], command: Command, *arguments: str) -> str:
    """Send until the tail shows one: only it knows when it listens."""
    assert tail.stderr is not None
    assert "new events of order.created" in tail.stderr.readline()
    while tail.poll() is None:
        assert command("send", "order.created", *arguments).code == 0
        try:
            out, _ = tail.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            continue
        return out.splitlines()[0]
    raise AssertionError(f"tail ended with {tail.returncode}")


def test_what_is_sent_is_seen_by_tail(command: Command) -> None:
    tail = command.start("tail", "order.created", "-n", "1", "--json", "--where", "prio = 'high'")
    try:
        shown = json.loads(
            first_line(tail, command, "-d", '{"customer": "ada"}', "--ext", "prio=high", "--subject", "o1")
        )
    finally:
        tail.kill()
        tail.wait()
    assert (shown["type"], shown["subject"], shown["prio"]) == ("order.created", "o1", "high")
    assert shown["data"] == {"customer": "ada"}
    assert shown["time"], "an event that was sent by hand is dated"
    assert tail.returncode == 0


def test_send_counts_and_tells_a_duplicate(command: Command) -> None:
    sent = command("send", "order.created", "-d", '{"customer": "ada"}', "--id", "o1", "--json")
    again = command("send", "order.created", "-d", '{"customer": "ada"}', "--id", "o1", "--json")
    many = command("send", "order.created", "-d", '{"customer": "ada"}', "--count", "250", "--json")
    assert (sent.code, again.code, many.code) == (0, 0, 0)
    assert [sent.objects[0]["duplicate"], again.objects[0]["duplicate"]] == [False, True]
    assert len({found["id"] for found in many.objects}) == 250


def test_dead_letters_are_listed_shown_replayed_and_dropped(command: Command, start: Start) -> None:
    run = start()
    for id, kind in (("bad", "rejected"), ("worse", "rejected"), ("fine", "")):
        data = json.dumps({"customer": "ada", "kind": kind})
        assert command("send", "order.created", "-d", data, "--id", id).code == 0
    run.until_handled(1)
    run.until(lambda: run.metric("dlq_events", handler="bill") == 2, "two dead letters")
    letters = {letter["event_id"]: letter for letter in command("dlq", "ls", "--json").objects}
    assert set(letters) == {"bad", "worse"}
    assert letters["bad"]["reason"] == "rejected: never"
    shown = command("dlq", "show", letters["bad"]["id"])
    assert "rejected: never" in shown.out
    assert '"kind": "rejected"' in shown.out or '"kind":"rejected"' in shown.out
    tried = command("dlq", "replay", "--where", "subject = 'none'", "--yes")
    assert (tried.code, tried.out) == (3, "")
    would = command("dlq", "replay", letters["bad"]["id"], "--dry-run")
    assert would.code == 0
    assert letters["bad"]["id"] in would.out
    assert command("dlq", "replay", letters["bad"]["id"], "--yes").code == 0
    # The cause is still there: it comes back as a letter of its own, with the number of the replay.
    run.until(
        lambda: any(letter["replay"] == 1 for letter in command("dlq", "ls", "--json").objects),
        "the replayed one fails",
    )
    assert command("dlq", "drop", letters["worse"]["id"], "--yes", "--reason", "of no use").code == 0
    dropped = command("dlq", "ls", "--state", "dropped", "--json").objects
    assert [letter["event_id"] for letter in dropped] == ["worse"]
    assert run.stop() == 0


def test_check_says_what_will_happen_and_asks_the_server(command: Command) -> None:
    app = command.variables["HEADRACE_APP"]
    done = command("check", app, "--connect", "--json")
    assert done.code == 0, done.err
    text = "\n".join(str(found["text"]) for found in done.objects)
    assert "handler bill: reads order.created, in order per key" in text
    assert "3 attempts" in text
    assert "HEADRACE_BROKER" in text
    assert "JetStream confirms writes before they are on the disk" in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("send", "a.b", "--broker", "foo://127.0.0.1:1"), 2, "unknown URL scheme 'foo'"),
        (("send", "a.b", "--broker", "nats://127.0.0.1:1"), 4, "could not be reached within"),
        (("tail", "--broker", "nats://127.0.0.1:1"), 4, "could not be reached within"),
        (("dlq", "show", "nothing"), 3, "no dead letter has an id that begins with nothing"),
        (("dlq", "ls", "--where", "type ="), 2, "expected a value"),
        (("check", "nowhere.py"), 2, "there is no file 'nowhere.py'"),
        (("check", "json:nothing"), 2, "'nothing' is no App there"),
        (("send", "a.b", "-d", "@missing"), 2, "missing"),
        (("send", "a b", "--to", "http://127.0.0.1:1/"), 4, "cannot be reached"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_what_cannot_be_done_ends_with_its_code_and_one_sentence(
    command: Command, arguments: tuple[str, ...], code: int, words: str
) -> None:
    command.variables["HEADRACE_READY_WITHIN"] = "1"
    done = command(*arguments)
    assert done.code == code, done.err
    assert words in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
