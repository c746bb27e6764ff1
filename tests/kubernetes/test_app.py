"""Watches in an app as a user writes it, on a real API server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from pydantic import BaseModel

from headrace import App, Event
from headrace.errors import ConfigurationError
from headrace.kubernetes import Change, Watch
from tests.kubernetes.actor import Actor
from tests.kubernetes.watching import eventually
from tests.servers.apiserver import ApiServer


@pytest.fixture
def app(cluster: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    return App("watching")


async def test_one_handler_sees_every_pod_of_all_namespaces_with_what_happened_its_name_and_phase(
    app: App, cluster: ApiServer, actor: Actor
) -> None:
    seen: list[tuple[str, str, str, str]] = []

    @app.on(Watch("pods"))
    async def pod_changed(event: Event) -> None:
        verb = event.type.rpartition(".")[2]
        seen.append((verb, event["namespace"], event["name"], event.data["status"]["phase"]))

    other = Actor(cluster.kubeconfig)
    await other.begin()
    await actor.pod("early")
    async with app.running():
        await eventually(lambda: ("add", actor.namespace, "early", "Pending") in seen)
        await other.pod("late")
        await eventually(lambda: ("add", other.namespace, "late", "Pending") in seen)
        await actor.status("early", {"phase": "Running"})
        await eventually(lambda: ("update", actor.namespace, "early", "Running") in seen)
        await other.delete("pods", "late")
        await eventually(lambda: ("delete", other.namespace, "late", "Pending") in seen)
    await other.close()


class Metadata(msgspec.Struct):
    name: str
    labels: dict[str, str] = {}


class Settings(msgspec.Struct):
    metadata: Metadata
    data: dict[str, str] = {}


class Model(BaseModel):
    metadata: dict[str, Any]
    data: dict[str, str] = {}


@dataclass
class Record:
    metadata: dict[str, Any]
    data: dict[str, str]


async def test_data_is_decoded_to_the_type_that_a_handler_asks_for(app: App, actor: Actor) -> None:
    found: dict[str, Any] = {}
    watch = Watch("configmaps", namespace=actor.namespace)

    @app.on(watch)
    async def struct(settings: Settings) -> None:
        found["struct"] = settings

    @app.on(watch)
    async def model(event: Event, settings: Model) -> None:
        found["model"] = settings

    @app.on(watch)
    async def record(settings: Record) -> None:
        found["record"] = settings

    @app.on(watch)
    async def plain(settings: dict) -> None:  # type: ignore[type-arg]
        found["plain"] = settings["data"]

    @app.on(Watch("configmaps", namespace=actor.namespace, previous=True))
    async def change(change: Change[Settings]) -> None:
        found["change"] = change

    async with app.running():
        await actor.configmap("settings", colour="red")
        await eventually(lambda: len(found) == 5)
        assert (
            found["struct"].data == found["model"].data == found["record"].data == found["plain"] == {"colour": "red"}
        )
        assert isinstance(found["struct"].metadata, Metadata)
        assert isinstance(found["model"], Model)
        assert (found["change"].object.data, found["change"].previous) == ({"colour": "red"}, None)
        await actor.patch("configmaps", "settings", {"data": {"colour": "blue"}})
        await eventually(lambda: found["change"].previous is not None)
        assert (found["change"].object.data, found["change"].previous.data) == ({"colour": "blue"}, {"colour": "red"})


class Mode(msgspec.Struct):
    mode: Literal["on", "off"]


class Strict(msgspec.Struct):
    data: Mode


async def test_a_state_that_is_not_of_the_handlers_type_is_dead_lettered_and_the_next_is_handled(
    app: App, actor: Actor
) -> None:
    handled: list[str] = []

    @app.on(Watch("configmaps", namespace=actor.namespace))
    async def strict(settings: Strict) -> None:
        handled.append(settings.data.mode)

    async with app.running() as worker:
        assert worker.runtime is not None
        (runner,) = worker.runtime.handlers
        await actor.configmap("settings", mode="perhaps")
        await eventually(lambda: runner.measures.outcomes["dead"] == 1)
        await actor.patch("configmaps", "settings", {"data": {"mode": "on"}})
        await eventually(lambda: handled == ["on"])
    assert runner.measures.outcomes["dead"] == 1


async def test_a_folder_that_cannot_hold_the_checkpoint_is_said(app: App, actor: Actor, tmp_path: Path) -> None:
    (tmp_path / ".headrace").write_text("in the way")

    @app.on(Watch("configmaps", namespace=actor.namespace))
    async def changed(event: Event) -> None: ...

    with pytest.raises(ConfigurationError, match="HEADRACE_STORE"):
        async with app.running():
            pass
