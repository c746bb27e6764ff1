"""What goes wrong in a command ends with the code of the table and one sentence, never with a traceback."""

import shlex
from pathlib import Path

import pytest

from tests.cli.command import Command

APP = """
from headrace import App

app = App("okapp")


@app.on("order.created", key="customer")
async def bill(order: dict) -> None: ...
"""
DEAD = "nats://127.0.0.1:1"


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (2, "nonsense"),
        (2, "check missing.py"),
        (2, "check missing:app"),
        (0, "check ok.py"),
        (0, "check ok.py --json"),
        (2, "run ok.py --workers 0"),
        (2, "run ok.py --role cook"),
        (2, "send order.created"),
        (2, f"send order.created -d @nofile --broker {DEAD}"),
        (2, "send order.created --ext x --broker memory://"),
        (2, "send order.created --broker memory://"),
        (2, f"send order.created --ext Foo=1 --broker {DEAD}"),
        (2, f"send order.created --ext id= --broker {DEAD}"),
        (2, f"send order.created --ext time=yesterday --broker {DEAD}"),
        (2, f"send order.created --source 'a b' --broker {DEAD}"),
        (2, "dev ok.py --persist /proc/x"),
        (2, "demo --persist /proc/x"),
        (4, f"send order.created --broker {DEAD}"),
        (2, "handlers ls"),
        (4, "handlers ls --app okapp"),
        (4, "handlers pause bill --app okapp"),
        (0, "dlq ls --app okapp"),
        (3, "dlq show abc --app okapp"),
        (3, "dlq replay --handler x --yes --app okapp"),
        (3, "dlq drop --where \"type = 'x'\" --yes --app okapp"),
        (2, "dlq ls --where 'type LIKE' --app okapp"),
        (2, "dlq import /nofile --app okapp"),
        (3, "trace nope --app okapp"),
        (2, "trace"),
        (2, "tail"),
        (4, f"tail --broker {DEAD}"),
        (2, "new"),
        (2, "soak --minutes 0"),
        (2, "soak --minutes 0.1 --broker amqp://x"),
        (2, "soak --minutes 0.1 --store shoebox://x"),
        (4, f"soak --minutes 0.1 --broker {DEAD}"),
        (0, "doctor"),
        (2, "doctor missing.py"),
        (2, "doctor --store shoebox://x"),
        (2, "dev missing.py"),
        (2, "demo --orders 1"),
        (2, "manifest missing.py --rbac"),
        (0, "--version"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_command_ends_with_its_code(tmp_path: Path, code: int, line: str) -> None:
    (tmp_path / "ok.py").write_text(APP)
    done = Command(tmp_path, HEADRACE_READY_WITHIN="0.5")(*shlex.split(line))
    assert done.code == code, done.out + done.err
    assert "Traceback" not in done.out + done.err
    if code:
        assert done.err, "nothing is said"


def test_a_flag_can_be_given_as_a_variable(tmp_path: Path) -> None:
    variables = {"HEADRACE_SOAK_MINUTES": "0", "HEADRACE_NEW_BROKER": "kafka", "HEADRACE_JSON": "1"}
    command = Command(tmp_path, **variables)
    refused = command("soak")
    assert refused.code == 2
    assert "0.0 is not in the range" in refused.err
    assert {"file": "shop/app.py"} in command("new", "shop").objects
    assert (tmp_path / "shop" / "requirements.txt").read_text() == "headrace[kafka]\n"
