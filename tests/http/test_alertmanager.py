"""The alert sink on a real Alertmanager."""

from __future__ import annotations

import asyncio
import json
import secrets
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from headrace import Event
from headrace.engine.sink import Publication, Published
from headrace.errors import ConfigurationError, PublishFailed
from headrace.http import Alertmanager as Declaration
from tests.servers.alertmanager import Alertmanager

LABELS = ("alertname", "namespace", "name")


def event(run: str, **data: Any) -> Event:
    return Event("t", "/s", {"run": run, **data}, namespace="shop", name="web")


def shown(server: Alertmanager, run: str) -> list[dict[str, Any]]:
    """The alerts of one test that have not ended."""
    with urllib.request.urlopen(f"{server.url}/api/v2/alerts", timeout=10) as answer:
        return [alert for alert in json.load(answer) if alert["labels"].get("run") == run]


async def publish(declaration: Declaration, *events: Event) -> list[Published | Exception]:
    sink = declaration.sink(None)
    await sink.open()
    try:
        return list(await sink.publish([Publication(one) for one in events]))
    finally:
        await sink.close()


@pytest.fixture
def run() -> str:
    return secrets.token_hex(4)


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(done):
            await asyncio.sleep(0.05)


async def test_labels_come_from_data_then_attributes_and_the_alert_ends_when_it_recovers(
    alertmanager_server: Alertmanager, run: str
) -> None:
    alerts = Declaration(
        alertmanager_server.url, labels=(*LABELS, "run"), fixed={"severity": "page"}, annotations={"why": "status.why"}
    )
    firing = event(run, alertname="Down", status={"why": "no reply"}, since="2026-01-01T00:00:00Z")
    assert await publish(alerts, firing) == [Published(position="200")]
    (alert,) = shown(alertmanager_server, run)
    wanted = {"alertname": "Down", "namespace": "shop", "name": "web", "run": run, "severity": "page"}
    assert alert["labels"] == wanted
    assert alert["annotations"] == {"why": "no reply"}
    assert alert["startsAt"] == "2026-01-01T00:00:00.000Z"
    await publish(alerts, event(run, alertname="Down", firing=False))
    await until(lambda: not shown(alertmanager_server, run))


async def test_an_alert_that_is_not_sent_again_ends_by_itself(alertmanager_server: Alertmanager, run: str) -> None:
    alerts = Declaration(alertmanager_server.url, labels=(*LABELS, "run"), lasts=2)
    await publish(alerts, event(run, alertname="Down", firing=True))
    await until(lambda: shown(alertmanager_server, run))
    await until(lambda: not shown(alertmanager_server, run))


async def test_the_last_of_a_batch_about_one_alert_stands(alertmanager_server: Alertmanager, run: str) -> None:
    alerts = Declaration(alertmanager_server.url, labels=(*LABELS, "run"))
    states = [True, False] * 150 + [True]
    results = await publish(alerts, *(event(run, alertname="Flaps", firing=firing) for firing in states))
    assert all(isinstance(result, Published) for result in results)
    assert len(shown(alertmanager_server, run)) == 1


async def test_one_bad_alert_is_refused_alone(alertmanager_server: Alertmanager, run: str) -> None:
    alerts = Declaration(alertmanager_server.url, labels=(*LABELS, "run"))
    good, nameless, bad, other = await publish(
        alerts,
        event(run, alertname="Good"),
        event(run),
        event(run, alertname="Bad", since="2999-01-01T00:00:00Z"),
        event(run, alertname="Other"),
    )
    assert isinstance(good, Published)
    assert isinstance(other, Published)
    assert isinstance(nameless, PublishFailed)
    assert "no field 'alertname'" in str(nameless)
    assert isinstance(bad, PublishFailed)
    assert not bad.transient
    assert {alert["labels"]["alertname"] for alert in shown(alertmanager_server, run)} == {"Good", "Other"}


async def test_an_outage_is_transient(alertmanager_server: Alertmanager) -> None:
    (result,) = await publish(Declaration("http://127.0.0.1:9"), event("x", alertname="Down"))
    assert isinstance(result, PublishFailed)
    assert result.transient


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in (
        {"url": "alertmanager:9093"},
        {"url": "http://u:p@a"},
        {"labels": ("pod",)},
        {"labels": ("alertname", "a-b")},
        {"labels": "alertname"},
        {"lasts": 0},
    ):
        with pytest.raises(ConfigurationError):
            Declaration(**{"url": "http://a:9093", **wrong})  # type: ignore[arg-type]
