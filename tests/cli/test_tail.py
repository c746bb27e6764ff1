"""``headrace tail --where`` on a real server: only events that the expression holds for."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from headrace.cloudevents.sql import parse
from headrace.engine.sink import Publication
from headrace.event import Event
from headrace.nats.broker import create
from tests.cli.command import Command
from tests.servers.nats import Nats

WHERE = "type LIKE 'order.%' AND EXISTS subject AND INT(amount) > 10"


async def test_only_events_that_the_expression_holds_for_are_shown(tmp_path: Path, nats_server: Nats) -> None:
    channel = f"tailed{uuid.uuid4().hex[:8]}.created"
    tail = Command(tmp_path, HEADRACE_BROKER=nats_server.url).start(
        "tail", channel, "--where", WHERE, "-n", "5", "--json"
    )
    broker = create(nats_server.url, app="tailed", settings={}, ready_within=30.0)
    try:
        await broker.open()
        sink = broker.sink(channel)
        await sink.open()
        number = 0
        # It shows new events and does not say since when: events are sent until it has seen enough of them.
        while tail.poll() is None and number < 20_000:
            number += 1
            event = Event(type="order.created", source="/shop", subject="o", amount=number % 20, data={"n": number})
            await sink.publish([Publication(event), Publication(event.replace(id=f"{number}", type="other"))])
        out, errors = await asyncio.to_thread(tail.communicate, timeout=60)
    finally:
        tail.kill()
        await broker.close()
    assert tail.returncode == 0, errors
    shown = [Event.from_json(line) for line in out.splitlines()]
    assert len(shown) == 5
    assert all(parse(WHERE).evaluate(event).value is True for event in shown)


def test_an_expression_that_does_not_parse_is_told_with_the_place_marked(tmp_path: Path) -> None:
    done = Command(tmp_path, HEADRACE_BROKER="nats://127.0.0.1:1")("tail", "--where", "type LIKE 'order.%' AND")
    assert done.code == 2
    assert "type LIKE 'order.%' AND\n" in done.err
    assert done.err.rstrip().splitlines()[-1].strip() == "^"


def test_an_unknown_function_is_told(tmp_path: Path) -> None:
    done = Command(tmp_path, HEADRACE_BROKER="nats://127.0.0.1:1")("tail", "--where", "LARGE(amount)")
    assert done.code == 2
    assert "LARGE with 1 arguments" in done.err
