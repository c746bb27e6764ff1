"""Many dead letters replayed at a rate, cancelled half way, killed, and resumed: on a real nats-server."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from headrace.cloudevents import nats
from headrace.engine.dead_letters import DeadLetter
from headrace.nats.broker import create
from headrace.nats.wire import header_pairs
from tests.cli.command import Command
from tests.cli.letters import make, plant
from tests.servers.nats import Nats

KEYS = 50
_numbers = itertools.count(1)


def replays(url: str, app: str) -> list[tuple[str, str]]:
    """What lies in the replay channel, in its order: (letter, event number)."""

    async def read() -> list[tuple[str, str]]:
        broker = create(url, app=app, settings={}, ready_within=10)
        await broker.open()
        try:
            stream = f"headrace_replay_{app}"
            state = (await broker.api.call(f"STREAM.INFO.{stream}"))["state"]
            found = []
            # A work queue is read by its consumers only; its messages can be looked at one by one.
            for first in range(1, state["last_seq"] + 1, 256):
                sequences = range(first, min(first + 256, state["last_seq"] + 1))
                asked = (broker.api.call(f"STREAM.MSG.GET.{stream}", {"seq": sequence}) for sequence in sequences)
                for answer in await asyncio.gather(*asked):
                    pairs = list(header_pairs(base64.b64decode(answer["message"]["hdrs"])))
                    event = nats.decode(pairs, base64.b64decode(answer["message"]["data"]))[0]
                    found.append((str(event["replayof"]), event.id.removeprefix("order-")))
            return found
        finally:
            await broker.close()

    return asyncio.run(read())


def check(url: str, letters: list[DeadLetter], app: str) -> None:
    """Every letter replayed once, those of each key in their order."""
    found = replays(url, app)
    counted = Counter(id for id, _ in found)
    assert counted == Counter(letter.id for letter in letters)
    last: dict[int, int] = {}
    for _, text in found:
        number = int(text)
        assert last.get(number % KEYS, -1) < number
        last[number % KEYS] = number


def cancelled_and_resumed(folder: Path, url: str, count: int, rate: float, after: float) -> None:
    app = f"many{next(_numbers)}"
    letters = [make(app, number, key=f"customer-{number % KEYS}") for number in range(count)]
    letters.append(make(app, count, handler="ship"))
    plant(app, letters, HEADRACE_BROKER=url)
    command = Command(folder, HEADRACE_APP=app, HEADRACE_BROKER=url)
    chosen = ["dlq", "replay", "--where", "INT(number) >= 0", "--handler", "bill", "--yes"]

    begun = time.monotonic()
    running = command.start(*chosen, "--rate", str(rate), "--reason", "fixed")
    assert running.stdout is not None
    first = list(itertools.islice(running.stdout, int(count * after)))
    running.send_signal(signal.SIGINT)
    rest = running.stdout.read()  # some of it was read ahead already, which communicate() does not know
    _, errors = running.communicate(timeout=100)
    seconds = time.monotonic() - begun
    assert running.returncode == 130, errors
    done = len(first) + len(rest.splitlines())
    assert f"{done} of {count} dead letters replayed" in errors
    assert f"{count - done} were not begun: run it again to go on" in errors
    assert 0 < done < count
    assert done <= rate * seconds + 1
    # Consistent: what was begun is finished, nothing lies in between.
    assert command("dlq", "ls", "--state", "replaying").code == 3
    assert len(command("dlq", "ls", "--state", "replayed").out.splitlines()) == done + 1
    assert len(replays(url, app)) == done

    killed = command.start(*chosen, "--rate", str(rate))
    assert killed.stdout is not None
    list(itertools.islice(killed.stdout, min(20, (count - done) // 2)))
    killed.kill()
    killed.communicate()

    resumed = command(*chosen)
    assert resumed.code == 0, resumed.err
    check(url, letters[:-1], app)
    assert [row["handler"] for row in command("dlq", "ls", "--json").objects] == ["ship"]


def test_a_cancelled_replay_is_consistent_and_a_second_run_takes_up_the_rest(tmp_path: Path, nats_server: Nats) -> None:
    cancelled_and_resumed(tmp_path, nats_server.url, 600, 400.0, 0.4)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_letters_cancelled_half_way_and_resumed(tmp_path: Path, nats_server: Nats) -> None:
    cancelled_and_resumed(tmp_path, nats_server.url, 100_000, 1_500.0, 0.5)


def test_progress_is_shown_on_a_terminal_only(tmp_path: Path, nats_server: Nats) -> None:
    app = f"many{next(_numbers)}"
    plant(app, [make(app, number) for number in range(60)], HEADRACE_BROKER=nats_server.url)
    command = Command(tmp_path, HEADRACE_APP=app, HEADRACE_BROKER=nats_server.url, COLUMNS="100", TERM="xterm")
    terminal, end = os.openpty()
    try:
        running = command.start("dlq", "replay", "--yes", "--rate", "100", stderr=end)
        os.close(end)
        shown = b""
        while True:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # the command has ended and let go of the terminal
                break
        running.communicate()
    finally:
        os.close(terminal)
    assert running.returncode == 0
    assert b"100%" in shown
    assert b"60 of 60 dead letters replayed" in shown
    dropped = command("dlq", "drop", "--state", "dead", "--yes")
    assert dropped.code == 3
    assert "%" not in dropped.err
