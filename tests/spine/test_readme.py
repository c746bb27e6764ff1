"""The README's second terminal, line by line: each command does what its reader expects, on the app that stands above it."""

import re
import shlex
import signal
import time
from pathlib import Path

from tests.cli.command import Command

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(language: str, containing: str) -> str:
    for found in re.finditer(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        if containing in found[1]:
            return found[1]
    raise AssertionError(f"no block holds {containing!r}")


def test_the_commands_of_the_readme_work_on_its_app(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(block("python", "app = App("))
    command = Command(tmp_path, HEADRACE_ADMIN="127.0.0.1:0", HEADRACE_HTTP="127.0.0.1:0")
    with (tmp_path / "dev.stderr").open("w") as errors:
        dev = command.start("dev", "shop.py", stderr=errors)
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"nats-server at (\S+),", (tmp_path / "dev.stderr").read_text())):
            assert time.monotonic() < deadline
            assert dev.poll() is None
            time.sleep(0.05)
        command.variables["HEADRACE_BROKER"] = found[1]
        said: dict[str, str] = {}
        for line in block("sh", "export HEADRACE_BROKER").splitlines()[1:]:
            words = shlex.split(line, comments=True)
            assert words[0] == "headrace"
            if words[1] == "tail":
                continue  # it runs until it is interrupted; tests/spine/test_commands.py reads it
            if words[1] == "dlq" and words[2] == "ls":
                while command(*words[1:], "--json").out == "":
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            done = command(*words[1:])
            assert done.code == 0, done.err
            said[" ".join(words[1:3])] = done.out
        assert "rejected: negative amount" in said["dlq ls"]
        assert said["dlq replay"].startswith("replayed ")
        assert "handler bill: reads order.created, in order per key" in said["check shop.py"]
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(60) == 0
    finally:
        dev.kill()
        dev.wait()
