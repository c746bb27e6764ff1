"""What a run finds at its server: other handlers' work queues, a renamed handler's consumer, streams with other settings.
Used where that loses nothing, and otherwise refused with the exit code and the words that fit."""

import asyncio
from pathlib import Path
from typing import Any

import nats as client
import pytest
from nats.js.api import RetentionPolicy, StreamConfig, SubjectTransform

from tests.servers.nats import Nats
from tests.spine.conftest import Start
from tests.spine.process import Run, orders, publish, verdict

TWO = """
from headrace import App, Event

app = App("spine")

@app.on("order.created", key="customer")
async def bill(event: Event) -> None: ...

@app.on("order.created")
async def audit(event: Event) -> None: ...
"""
RENAMED = """
from headrace import App, Event

app = App("spine")

@app.on("order.created", key="customer")
async def charge(event: Event) -> None: ...
"""


def stream(nats: Nats, **settings: Any) -> None:
    async def make() -> None:
        connection = await client.connect(nats.url)
        config = StreamConfig(name="order", subjects=["order", "order.>"], **settings)
        await connection.jetstream().add_stream(config)
        await connection.close()

    asyncio.run(make())


def ends_with(run: Run, code: int, *words: str) -> None:
    assert run.exit_code() == code, run.text()
    for word in words:
        assert word in run.text()


def test_a_work_queue_is_used_as_found_and_survives_a_kill(nats: Nats, start: Start) -> None:
    stream(nats, retention=RetentionPolicy.WORK_QUEUE)
    run = start(WORK="0.01")
    publish(run, orders(600, 6))
    run.until_handled(100)
    run.kill()
    again = start(name="again")
    again.until_handled(600)
    assert again.stop() == 0
    found = verdict(again)
    assert found.ok, found


def test_a_second_handler_of_a_work_queue_ends_with_2(tmp_path: Path, nats: Nats, start: Start) -> None:
    stream(nats, retention=RetentionPolicy.WORK_QUEUE)
    (tmp_path / "two.py").write_text(TWO)
    ends_with(start(app=tmp_path / "two.py"), 2, "work queue", "Use one handler, or a stream with limits retention")


def test_a_renamed_handler_ends_with_5_and_both_remedies(tmp_path: Path, start: Start) -> None:
    run = start()
    publish(run, orders(10, 2))
    run.until_handled(10)
    assert run.stop() == 0
    (tmp_path / "renamed.py").write_text(RENAMED)
    ends_with(
        start(app=tmp_path / "renamed.py", name="renamed"),
        5,
        "name='bill'",
        "nats consumer rm order spine__bill",
    )


@pytest.mark.parametrize(
    ("settings", "app", "words"),
    [
        ({"no_ack": True}, "forwarding", "confirms no publishes (no_ack)"),
        (
            {"subject_transform": SubjectTransform(src="order.>", dest="stored.order.>")},
            "orders",
            "subject_transform to 'stored.order.>'",
        ),
    ],
    ids=["no_ack", "subject_transform"],
)
def test_a_stream_on_which_nothing_would_arrive_or_be_confirmed_ends_with_2(
    nats: Nats, start: Start, settings: dict[str, Any], app: str, words: str
) -> None:
    stream(nats, **settings)
    ends_with(start(app=app, TO="order.billed"), 2, words)
