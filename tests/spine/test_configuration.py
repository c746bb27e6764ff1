"""Bad configuration ends with the exit code of the table and one clear sentence, no traceback."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import nats as client
import pytest

from tests.servers.nats import Nats
from tests.spine.conftest import Start
from tests.spine.process import Run


def ends_with(run: Run, code: int, *words: str) -> None:
    """It ends with this code, says why in one sentence, and shows no traceback."""
    assert run.exit_code() == code, run.text()
    said = [
        line
        for line in run.text().splitlines()
        if line.startswith("headrace: ") and not line.startswith("headrace: listening")
    ]
    assert len(said) == 1, run.text()
    for word in words:
        assert word in said[0]
    assert "Traceback" not in run.text()


@pytest.mark.parametrize(
    ("broker", "code", "words"),
    [
        ("carrier-pigeon://x", 2, ("unknown URL scheme", "nats://")),
        ("nats://127.0.0.1:1", 4, ("127.0.0.1:1",)),
    ],
    ids=["unknown scheme", "unreachable"],
)
def test_a_broker_that_cannot_be(start: Start, broker: str, code: int, words: tuple[str, ...]) -> None:
    ends_with(start(broker, HEADRACE_READY_WITHIN="1"), code, *words)


def test_a_store_with_an_unknown_scheme(start: Start) -> None:
    ends_with(start(HEADRACE_STORE="shoebox:///x"), 2, "shoebox")


def test_no_broker_for_a_channel(start: Start) -> None:
    ends_with(start(HEADRACE_BROKER=None), 2, "HEADRACE_BROKER", "order.created")


def test_a_setting_that_is_no_number(start: Start) -> None:
    ends_with(start(HEADRACE_CONCURRENCY="many"), 2, "HEADRACE_CONCURRENCY")


@pytest.mark.parametrize("auth", ["user", "token"])
def test_wrong_credentials(start: Start, start_nats: Callable[..., Nats], auth: str) -> None:
    server = start_nats(auth=auth)
    who = "alice:wrong" if auth == "user" else "wrong"
    run = start(f"nats://{who}@{server.address}", HEADRACE_READY_WITHIN="5")
    ends_with(run, 4, server.address)
    assert "alice:wrong" not in run.text(), "the password is in the log"


def test_an_admin_port_in_use(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ends_with(start(HEADRACE_ADMIN=f"127.0.0.1:{port}"), 2, "in use", str(port))


def test_an_http_port_in_use(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ends_with(
            start(app="received", HEADRACE_HTTP=f"127.0.0.1:{port}", HEADRACE_STORE="memory://"), 2, "in use", str(port)
        )


async def _make_stream(url: str, name: str, subjects: list[str]) -> None:
    connection = await client.connect(url)
    try:
        await connection.jetstream().add_stream(name=name, subjects=subjects)
    finally:
        await connection.close()


STREAM = """
from headrace import App, Event
from headrace.nats import Stream

app = App("spine")

@app.on(Stream("ORDERS", subject="order.>", durable="shop"))
async def handle(event: Event) -> None: ...
"""


def test_a_stream_whose_settings_differ_from_what_is_found(tmp_path: Path, nats: Nats, start: Start) -> None:
    asyncio.run(_make_stream(nats.url, "ORDERS", ["parcel.>"]))
    (tmp_path / "stream.py").write_text(STREAM)
    ends_with(start(app=tmp_path / "stream.py"), 2, "ORDERS", "order.>", "parcel.>")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nowhere_at_all\n", "nowhere_at_all"),
        ("app = 7\n", "app"),
        ("from headrace import App\napp = App('spine')\n", "no handlers"),
        (
            "from headrace import App\napp = App('spine')\n@app.on('x')\nasync def h(a: int, b: int): ...\n",
            "'h'",
        ),
    ],
    ids=["import error", "no app", "no handlers", "signature"],
)
def test_a_file_that_is_no_app(tmp_path: Path, start: Start, text: str, words: str) -> None:
    (tmp_path / "broken.py").write_text(text)
    run = start(app=tmp_path / "broken.py")
    assert run.exit_code() == 2, run.text()
    assert words in run.text()
    assert "site-packages" not in run.text()


def test_a_file_that_is_not_there(tmp_path: Path, start: Start) -> None:
    ends_with(start(app=tmp_path / "missing.py"), 2, "missing.py")
