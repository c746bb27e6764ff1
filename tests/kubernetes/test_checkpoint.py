"""A watch over restarts of its process: what was missed is told, deletions included, and nothing is told twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from headrace.engine.delivery import ACK, HAND_BACK
from headrace.errors import StoreUnavailable
from headrace.kubernetes import Watch
from headrace.kubernetes.index import Identity, Index
from headrace.kubernetes.saving import Saving
from headrace.kubernetes.store import Delta
from tests.kubernetes.actor import Actor
from tests.kubernetes.watching import Notebook, Watching, eventually, told
from tests.servers.apiserver import ApiServer


def watch_of(cluster: ApiServer, actor: Actor, **settings: object) -> Watch:
    return Watch("configmaps", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig), **settings)  # type: ignore[arg-type]


async def test_a_restart_tells_what_was_missed_and_nothing_else(cluster: ApiServer, actor: Actor) -> None:
    notebook = Notebook()
    for name in ("stays", "changes", "goes", "returns"):
        await actor.configmap(name)
    async with Watching(watch_of(cluster, actor), checkpoints=notebook) as seen:
        await seen.until(lambda events: len(events) == 4)
    first = {event["name"]: event.id.partition(":")[0] for event in seen.events}
    await actor.patch("configmaps", "changes", {"data": {"a": "b"}})
    await actor.delete("configmaps", "goes")
    await actor.delete("configmaps", "returns")
    await actor.configmap("returns")
    await actor.configmap("comes")
    async with Watching(watch_of(cluster, actor), checkpoints=notebook) as seen:
        await seen.until(lambda events: len(events) >= 5)
        await seen.ready()
    assert {name: seen.verbs(name) for name in ("stays", "changes", "goes", "returns", "comes")} == {
        "stays": [],
        "changes": ["update"],
        "goes": ["delete"],
        "returns": ["delete", "add"],
        "comes": ["add"],
    }
    gone = next(event for event in seen.events if event["name"] == "goes")
    assert gone["finalstateunknown"] is True
    assert gone.id.endswith(":gone")
    assert gone.data["metadata"]["uid"] == first["goes"]
    assert (gone.data["apiVersion"], gone.data["kind"]) == ("v1", "ConfigMap")
    assert not any("initial" in event for event in seen.events)


async def test_a_delete_is_told_of_an_object_whose_add_a_kill_broke_off(cluster: ApiServer, actor: Actor) -> None:
    notebook, at_the_kill = Notebook(), Notebook()
    await actor.configmap("goes")
    await actor.configmap("stays")
    seen = Watching(watch_of(cluster, actor), checkpoints=notebook)
    seen.hold = True
    async with seen:
        await seen.until(lambda events: len(events) == 2)
        at_the_kill.saved = {scope: dict(entries) for scope, entries in notebook.saved.items()}
    uid = next(event.id.partition(":")[0] for event in seen.events if event["name"] == "goes")
    await actor.delete("configmaps", "goes")
    async with Watching(watch_of(cluster, actor), checkpoints=at_the_kill) as seen:
        await seen.until(lambda events: len(events) == 2)
        await seen.ready()
    assert (seen.verbs("goes"), seen.verbs("stays")) == (["delete"], ["add"])
    (gone,) = (event for event in seen.events if event["name"] == "goes")
    assert gone.id.startswith(uid)
    assert gone.id.endswith(":gone")
    async with Watching(watch_of(cluster, actor), checkpoints=at_the_kill) as seen:
        await seen.ready()
    assert seen.events == []


async def test_a_second_restart_is_silent(cluster: ApiServer, actor: Actor) -> None:
    notebook = Notebook()
    await actor.configmap("one")
    await actor.configmap("two")
    async with Watching(watch_of(cluster, actor), checkpoints=notebook) as seen:
        await seen.until(lambda events: len(events) == 2)
    await actor.delete("configmaps", "two")
    async with Watching(watch_of(cluster, actor), checkpoints=notebook) as seen:
        await seen.until(told("two", "delete"))
    async with Watching(watch_of(cluster, actor), checkpoints=notebook) as seen:
        await seen.ready()
        await actor.configmap("three")
        await seen.until(told("three", "add"))
    assert [event["name"] for event in seen.events] == ["three"]


async def test_what_was_not_finished_comes_again(cluster: ApiServer, actor: Actor) -> None:
    notebook = Notebook()
    await actor.configmap("done")
    await actor.configmap("begun")
    seen = Watching(watch_of(cluster, actor), checkpoints=notebook)
    seen.hold = True
    async with seen:
        await seen.until(lambda events: len(events) == 2)
        for delivery in seen.held:
            assert delivery.event is not None
            seen.source.settle(delivery, ACK if delivery.event["name"] == "done" else HAND_BACK)
    async with Watching(watch_of(cluster, actor), checkpoints=notebook) as seen:
        (event,) = await seen.until(told("begun", "add"))
    assert event["initial"] is True  # it was there at the very first start


async def test_initial_false_holds_over_restarts(cluster: ApiServer, actor: Actor) -> None:
    notebook = Notebook()
    await actor.configmap("early")
    async with Watching(watch_of(cluster, actor, initial=False), checkpoints=notebook) as seen:
        await seen.ready()
    await actor.configmap("meanwhile")
    await actor.delete("configmaps", "early")
    async with Watching(watch_of(cluster, actor, initial=False), checkpoints=notebook) as seen:
        await seen.until(lambda events: len(events) == 2)
    assert (seen.verbs("early"), seen.verbs("meanwhile")) == (["delete"], ["add"])


async def test_an_insignificant_change_while_down_is_no_event(cluster: ApiServer, actor: Actor) -> None:
    notebook = Notebook()
    watch = watch_of(cluster, actor, changes=["data"])
    await actor.configmap("one", a="1")
    await actor.configmap("two", a="1")
    async with Watching(watch, checkpoints=notebook) as seen:
        await seen.until(lambda events: len(events) == 2)
    await actor.patch("configmaps", "one", {"metadata": {"labels": {"x": "y"}}})
    await actor.patch("configmaps", "two", {"data": {"a": "2"}})
    async with Watching(watch, checkpoints=notebook) as seen:
        await seen.until(told("two", "update"))
        await seen.ready()
    assert seen.verbs("one") == []


async def test_the_checkpoint_of_another_cluster_is_discarded(cluster: ApiServer, actor: Actor) -> None:
    notebook = Notebook()
    await actor.configmap("one")
    async with Watching(watch_of(cluster, actor), checkpoints=notebook) as seen:
        await seen.until(told("one", "add"))
    for names in notebook.saved.values():
        header = names["configmaps"].replace(b'"server":"https', b'"server":"elsewhere-https')
        uid = header.partition(b'"uid":"')[2].partition(b'"')[0]
        names["configmaps"] = header.replace(uid, b"another-uid") if uid else header
        names["configmaps gone/thing"] = b"u1 1 "
    async with Watching(watch_of(cluster, actor), checkpoints=notebook) as seen:
        await seen.until(told("one", "add"))
        await seen.ready()
    assert seen.verbs("thing") == []
    assert "configmaps gone/thing" not in notebook.saved["tests__handler"]


async def test_an_entry_leaves_with_its_delete(cluster: ApiServer, actor: Actor) -> None:
    notebook = Notebook()
    async with Watching(watch_of(cluster, actor), checkpoints=notebook) as seen:
        await seen.ready()
        await actor.configmap("short")
        await seen.until(told("short", "add"))
        await actor.delete("configmaps", "short")
        await seen.until(told("short", "add", "delete"))
    assert list(notebook.saved["tests__handler"]) == ["configmaps"]


async def test_saves_are_batched(cluster: ApiServer, actor: Actor) -> None:
    notebook = Notebook()
    async with Watching(watch_of(cluster, actor), checkpoints=notebook) as seen:
        await seen.ready()
        await asyncio.gather(*(actor.configmap(f"n{n}") for n in range(50)))
        await seen.until(lambda events: len(events) == 50)
    assert notebook.saves < 25
    assert len(notebook.saved["tests__handler"]) == 51


class Failing(Notebook):
    def __init__(self) -> None:
        super().__init__()
        self.fails = True
        self.attempts = 0

    async def save(self, scope: str, changes: object) -> None:
        self.attempts += 1
        if self.fails:
            raise StoreUnavailable("disk full")
        await super().save(scope, changes)  # type: ignore[arg-type]


async def test_a_save_that_fails_forgets_nothing() -> None:
    failing = Failing()
    index = Index(failing, "scope", "pods")
    await index.load(Identity("u", "s"))
    index.finish(Delta("add", "a/b", "u1", "5", b"{}"))
    with pytest.raises(StoreUnavailable):
        await index.save()
    index.finish(Delta("update", "a/b", "u1", "6", b"{}"))
    failing.fails = False
    await index.save()
    assert failing.saved["scope"]["pods a/b"] == b"u1 6 "


async def test_a_namesakes_entry_survives_the_delete_of_its_predecessor() -> None:
    index = Index(Notebook(), "scope", "pods")
    await index.load(Identity("u", "s"))
    index.finish(Delta("add", "a/b", "new", "9", b"{}"))
    index.finish(Delta("delete", "a/b", "old", "8", None))
    assert index.finished["a/b"].uid == "new"


async def test_the_wish_for_a_list_never_goes_back_behind_what_was_finished() -> None:
    notebook = Notebook()
    index = Index(notebook, "scope", "pods")
    await index.load(Identity("u", "s"))
    index.finish(Delta("add", "a/b", "u1", "100", b"{}"))
    index.finish(Delta("add", "a/c", "u2", "99", b"{}"))
    await index.save()
    again = Index(notebook, "scope", "pods")
    await again.load(Identity("u", "s"))
    assert again.version == "100"


async def test_an_object_is_on_record_before_it_is_handed_over_and_only_until_it_is_finished() -> None:
    notebook = Notebook()
    index = Index(notebook, "scope", "pods")
    await index.load(Identity("u", "s"))
    added, updated = Delta("add", "a/b", "u1", "5", b"{}"), Delta("update", "a/b", "u1", "6", b"{}")
    assert index.begin(added)
    assert not index.begin(added), "an attempt more is nothing new"
    await index.save()
    again = Index(notebook, "scope", "pods")
    await again.load(Identity("u", "s"))
    assert (again.begun["a/b"].uid, again.finished, again.version) == ("u1", {}, "")
    index.finish(added)
    assert not index.begin(updated)
    await index.save()
    assert notebook.saved["scope"]["pods a/b"] == b"u1 5 "
    index.finish(Delta("delete", "a/b", "u1", "7", None))
    assert index.begin(Delta("add", "a/b", "u2", "8", b"{}"))
    index.finish(Delta("delete", "a/b", "u1", "7", None))
    await index.save()
    assert notebook.saved["scope"]["pods a/b"] == b"u2 8  begun"


class Held(Notebook):
    """Its saves wait until they may go on. ``begun`` is set while one waits."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.open = asyncio.Event()

    async def save(self, scope: str, changes: Mapping[str, bytes | None]) -> None:
        self.begun.set()
        await self.open.wait()
        await super().save(scope, changes)


async def test_what_changes_while_a_save_is_under_way_is_saved_after_it() -> None:
    held = Held()
    index = Index(held, "scope", "pods")
    await index.load(Identity("u", "s"))
    saving = Saving(index, spawn=asyncio.create_task, ours=lambda: True)
    saving.finish(Delta("add", "a/b", "u1", "5", b"{}"))
    saving.soon()
    await held.begun.wait()
    index.listed("9", False, True)
    saving.soon()
    held.open.set()
    await eventually(lambda: b'"baseline":"9"' in held.saved.get("scope", {}).get("pods", b""))


async def test_a_save_is_repeated_until_the_store_is_back_though_nothing_else_happens() -> None:
    failing = Failing()
    index = Index(failing, "scope", "pods")
    await index.load(Identity("u", "s"))
    saving = Saving(index, spawn=asyncio.create_task, ours=lambda: True)
    index.listed("9", False, True)
    saving.soon()
    await eventually(lambda: failing.attempts >= 2)
    failing.fails = False
    await eventually(lambda: b'"baseline":"9"' in failing.saved.get("scope", {}).get("pods", b""))


@pytest.mark.parametrize(
    ("name", "value"),
    [("configmaps", b"{"), ("configmaps a/b", b"\xff\xfe"), ("configmaps a/b", b"u1"), ("configmaps! a/b", b"[]")],
)
async def test_a_checkpoint_that_cannot_be_read_is_told_and_waited_for_and_nothing_is_handled(
    cluster: ApiServer, actor: Actor, name: str, value: bytes
) -> None:
    notebook = Notebook()
    await actor.configmap("one")
    async with Watching(watch_of(cluster, actor), checkpoints=notebook) as seen:
        await seen.until(told("one", "add"))
    saved = dict(notebook.saved["tests__handler"])
    notebook.saved["tests__handler"][name] = value
    await actor.delete("configmaps", "one")
    async with Watching(watch_of(cluster, actor), checkpoints=notebook) as seen:
        await eventually(lambda: "cannot be read at" in seen.source.progress().detail)
        assert not seen.source.progress().connected
        assert notebook.saved["tests__handler"] == {**saved, name: value}
        notebook.saved["tests__handler"] = saved
        await seen.until(told("one", "delete"))


async def test_handlers_go_on_without_the_store(cluster: ApiServer, actor: Actor) -> None:
    failing = Failing()
    await actor.configmap("one")
    seen = Watching(watch_of(cluster, actor), checkpoints=failing)
    async with seen:
        await seen.until(told("one", "add"))
        failing.fails = False
