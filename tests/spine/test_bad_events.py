"""Events that cannot be handled end in the dead letters with the reason, and their neighbours do not."""

import asyncio
from typing import Any

import nats as client

from tests.servers.nats import Nats
from tests.spine.conftest import Start
from tests.spine.process import Run, orders, publish

CLOUDEVENT = {"ce-specversion": "1.0", "ce-source": "/tests", "ce-type": "order.created"}


async def _send(url: str, messages: list[tuple[bytes, dict[str, str]]]) -> None:
    connection = await client.connect(url)
    try:
        for body, headers in messages:
            await connection.jetstream().publish("order.created", body, headers=headers)
    finally:
        await connection.close()


def event(id: str, body: bytes, **headers: str) -> tuple[bytes, dict[str, str]]:
    return body, {**CLOUDEVENT, "ce-id": id, "content-type": "application/json", **headers}


def letters_once(run: Run, count: int) -> list[dict[str, Any]]:
    """The letters, when so many were counted."""
    run.until(
        lambda: run.metric("events_processed_total", handler="bill", outcome="dead") >= count, f"not {count} letters"
    )
    return run.letters()


def test_what_cannot_be_handled_is_dead_lettered_with_the_reason_and_its_neighbours_flow(
    nats: Nats, start: Start
) -> None:
    run = start(TIMEOUT="0.5", ATTEMPTS="2")
    publish(run, orders(200, 10))
    asyncio.run(
        _send(
            nats.url,
            [
                event("undecodable", b"{not json"),
                event("wrong-type", b'{"customer": 7}'),
                event("no-key", b'{"kind": ""}'),
                event("null-key", b'{"customer": null}'),
                (b"{}", {**CLOUDEVENT, "ce-specversion": "0.3", "ce-id": "other-version"}),
                event("poison", b'{"customer": "c1", "kind": "poison"}'),
                event("rejected", b'{"customer": "c2", "kind": "rejected"}'),
                event("endless", b'{"customer": "c3", "kind": "endless"}'),
            ],
        )
    )
    publish(run, orders(200, 10, first=200))
    run.until_handled(400)
    letters = letters_once(run, 8)
    reasons = {letter["event_id"] or "undecoded": letter["reason"] for letter in letters}
    attempts = {letter["event_id"] or "undecoded": letter["attempts"] for letter in letters}
    assert len(letters) == 8, letters
    assert attempts["poison"] == 2
    assert "always" in reasons["poison"]
    assert attempts["rejected"] == 1
    assert "never" in reasons["rejected"]
    assert attempts["endless"] == 2
    assert "0.5 s" in reasons["endless"], reasons["endless"]
    assert "customer" in reasons["wrong-type"]
    assert "customer" in reasons["no-key"]
    assert "customer" in reasons["null-key"]
    assert attempts["undecodable"] == attempts["wrong-type"] == attempts["no-key"] == 0
    assert all(reasons.values()), reasons
    assert run.ready()
    assert run.stop() == 0
    assert "tried again" not in run.text(), "a neighbour was tried again"
