"""What a watch survives, on real API servers that are killed, compacted, cut off and taken away."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator

import pytest

from headrace.kubernetes import Watch
from headrace.kubernetes.objects import decode_page
from headrace.kubernetes.reflector import Present, Reflector, Timing
from headrace.kubernetes.status import ApiError
from tests.kubernetes.actor import Actor
from tests.kubernetes.relay import Relay
from tests.kubernetes.watching import SHORT, Notebook, Watching, eventually, told
from tests.servers.apiserver import OTHER, PLAIN, ApiServer

CRD = {
    "metadata": {"name": "wheels.mill.example.com"},
    "spec": {
        "group": "mill.example.com",
        "scope": "Namespaced",
        "names": {"plural": "wheels", "singular": "wheel", "kind": "Wheel"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}


async def test_a_killed_api_server_is_resumed_and_nothing_is_missed(private: ApiServer, owner: Actor) -> None:
    async with Watching(Watch("configmaps", namespace=owner.namespace, kubeconfig=str(private.kubeconfig))) as seen:
        await seen.ready()
        await owner.configmap("before")
        await owner.configmap("goes")
        await seen.until(told("goes", "add"))
        await asyncio.to_thread(private.kill_api)
        await eventually(lambda: not seen.source.progress().connected)
        assert "API server" in seen.source.progress().detail or "configmaps" in seen.source.progress().detail
        await asyncio.to_thread(private.start_api)
        await owner.delete("configmaps", "goes")
        await owner.configmap("goes")
        await owner.configmap("after")
        await seen.until(told("after", "add"))
        await seen.until(told("goes", "add", "delete", "add"))
        await eventually(lambda: seen.source.progress().connected)
    assert seen.verbs("before") == ["add"]
    assert seen.source.progress().detail == ""


async def test_delete_and_recreate_while_the_watch_is_down_is_a_delete_and_an_add(
    private: ApiServer, owner: Actor
) -> None:
    async with Relay(private.ports[2]) as relay:
        config = private.kubeconfig_for("admin-token", server=relay.url)
        async with Watching(Watch("configmaps", namespace=owner.namespace, kubeconfig=str(config))) as seen:
            await seen.ready()
            first = await owner.configmap("name")
            await seen.until(told("name", "add"))
            relay.freeze()
            relay.cut()
            await owner.delete("configmaps", "name")
            await owner.configmap("name")
            # A restarted API server has no history in memory: the old version is answered with 410.
            await asyncio.to_thread(private.kill_api)
            await asyncio.to_thread(private.start_api)
            relay.thaw_new()
            await seen.until(told("name", "add", "delete", "add"), seconds=60.0)  # what hung is given up after 10 s
    gone = seen.events[1]
    assert gone.id.startswith(first["metadata"]["uid"])
    assert gone["finalstateunknown"] is True


@pytest.fixture
async def without_cache() -> AsyncIterator[ApiServer]:
    """No watch cache for ConfigMaps and no list from snapshots: compaction shows at once."""
    server = ApiServer(flags=["--watch-cache-sizes=configmaps#0", "--feature-gates=ListFromCacheSnapshot=false"])
    await asyncio.to_thread(server.start)
    yield server
    server.close()


async def test_a_410_as_error_event_after_compaction_is_a_relist(without_cache: ApiServer) -> None:
    owner = Actor(without_cache.kubeconfig)
    await owner.begin()
    notebook = Notebook()
    async with Relay(without_cache.ports[2]) as relay:
        config = without_cache.kubeconfig_for("admin-token", server=relay.url)
        watch = Watch("configmaps", namespace=owner.namespace, kubeconfig=str(config))
        async with Watching(watch, checkpoints=notebook) as seen:
            await seen.ready()
            await owner.configmap("kept")
            await owner.configmap("gone")
            await seen.until(told("gone", "add"))
            relay.freeze()
            relay.cut()
            await owner.delete("configmaps", "gone")
            for n in range(3):
                await owner.patch("configmaps", "kept", {"data": {"n": str(n)}})
            await asyncio.to_thread(without_cache.compact)
            relay.thaw_new()
            await seen.until(told("gone", "add", "delete"))
            await seen.until(told("kept", "add", "update"))
            assert seen.source.restarts.get("expired")
    await owner.close()


async def test_a_410_on_a_continue_page_is_one_unpaged_list(without_cache: ApiServer) -> None:
    owner = Actor(without_cache.kubeconfig)
    await owner.begin()
    for n in range(5):
        await owner.configmap(f"n{n}")
    reflector = Reflector(SHORT, monotonic=asyncio.get_running_loop().time, streaming=False)
    path = f"/api/v1/namespaces/{owner.namespace}/configmaps"
    asked: list[dict[str, str]] = []
    while not reflector.synced:
        query = dict(reflector.request().query)
        asked.append(query)
        small = {**query, "limit": "2"} if "limit" in query else query
        try:
            body = await owner.client.request("GET", path, query=list(small.items()))
        except ApiError as error:
            reflector.refused(error.status, error.retry_after)
            continue
        reflector.page(decode_page(body, "v1", "ConfigMap"))
        if len(asked) == 1:
            await owner.configmap("late")
            await asyncio.to_thread(without_cache.compact)
    names = {fact.object.key.rpartition("/")[2] for fact in reflector.take() if isinstance(fact, Present)}
    assert names >= {"n0", "n1", "n2", "n3", "n4", "late"}
    assert "continue" in asked[1]
    assert asked[2] == {}
    assert reflector.restarts == {"expired": 1}
    await owner.close()


async def test_an_etcd_restored_from_a_backup_is_the_truth(private: ApiServer, owner: Actor) -> None:
    await owner.configmap("kept", n="backed up")
    await asyncio.to_thread(private.stop)
    backup = private.folder / "backup"
    await asyncio.to_thread(shutil.copytree, private.folder / "etcd", backup)
    await asyncio.to_thread(private.restart)
    watch = Watch("configmaps", namespace=owner.namespace, kubeconfig=str(private.kubeconfig))
    # A watch from a version that the server has not reached is accepted, and silent until it ends.
    timing = Timing(watch=(2.0, 3.0), grace=5.0, at_once=0.5, backoff=(0.05, 0.4))
    async with Watching(watch, timing=timing) as seen:
        await seen.until(told("kept", "add"))
        # More history than the restored server will have when it is asked, whatever it writes by itself.
        for n in range(400):
            await owner.patch("configmaps", "kept", {"data": {"n": str(n)}})
        await owner.configmap("lost")
        await seen.until(told("lost", "add"))
        newest = (await owner.get("configmaps", "kept"))["metadata"]["resourceVersion"]
        await asyncio.to_thread(private.kill)
        await asyncio.to_thread(shutil.rmtree, private.folder / "etcd")
        await asyncio.to_thread(shutil.copytree, backup, private.folder / "etcd")
        await asyncio.to_thread(private.restart)
        await seen.until(told("lost", "add", "delete"), seconds=60)
        await eventually(lambda: seen.source.progress().connected)
        assert seen.source.restarts["too_large_version"]
    last = [event for event in seen.events if event["name"] == "kept"][-1]
    assert last.data["data"] == {"n": "backed up"}
    assert int(last.data["metadata"]["resourceVersion"]) < int(newest)


async def test_a_half_open_connection_is_noticed_at_the_deadline_and_resumed(private: ApiServer, owner: Actor) -> None:
    timing = Timing(watch=(2.0, 3.0), grace=1.0, backoff=(0.05, 0.2))
    async with Relay(private.ports[2]) as relay:
        config = private.kubeconfig_for("admin-token", server=relay.url)
        watch = Watch("configmaps", namespace=owner.namespace, kubeconfig=str(config))
        async with Watching(watch, timing=timing) as seen:
            await seen.ready()
            await owner.configmap("before")
            await seen.until(told("before", "add"))
            relay.freeze()
            await owner.configmap("unheard")
            relay.thaw_new()
            began = asyncio.get_running_loop().time()
            await seen.until(told("unheard", "add"), seconds=6.0)
            assert asyncio.get_running_loop().time() - began < timing.watch[1] + timing.grace + 1


async def test_a_definition_that_is_not_there_yet_is_waited_for(cluster: ApiServer, actor: Actor) -> None:
    watch = Watch("wheels.mill.example.com", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))
    async with Watching(watch) as seen:
        await eventually(lambda: "wheels.mill.example.com" in seen.source.progress().detail)
        assert not seen.source.progress().connected
        await actor.create("customresourcedefinitions.apiextensions.k8s.io", CRD)
        await seen.ready()
        body = {
            "apiVersion": "mill.example.com/v1",
            "kind": "Wheel",
            "metadata": {"name": "big"},
            "unknown": {"x": [1]},
        }
        await actor.create("wheels.mill.example.com", body)
        (event,) = await seen.until(told("big", "add"))
        assert event.data["unknown"] == {"x": [1]}
        # The definition goes while we watch: its objects are deleted, and the watch waits for it to come back.
        await actor.delete("wheels.mill.example.com", "big")
        await actor.delete("customresourcedefinitions.apiextensions.k8s.io", "wheels.mill.example.com", namespace="")
        await seen.until(told("big", "add", "delete"))
        await eventually(lambda: not seen.source.progress().connected, seconds=40)
        await actor.create("customresourcedefinitions.apiextensions.k8s.io", CRD)
        await eventually(lambda: seen.source.progress().connected, seconds=40)
        await actor.create("wheels.mill.example.com", body)
        await seen.until(told("big", "add", "delete", "add"))


async def test_missing_rights_are_said_and_waited_for(cluster: ApiServer, actor: Actor) -> None:
    config = cluster.kubeconfig_for(PLAIN, namespace=actor.namespace)
    async with Watching(Watch("configmaps", kubeconfig=str(config))) as seen:
        await eventually(lambda: "RBAC allows" in seen.source.progress().detail)
        await actor.configmap("here")
        await grant(actor, "plain", ["configmaps"])
        await seen.until(told("here", "add"), seconds=30)
        connection = seen.source._connection
        assert connection is not None
        # The rights end at the namespace, and so does the watch.
        assert [selection.namespace for selection in connection.informers] == [actor.namespace]


async def test_rights_taken_away_while_watching_are_said_and_recovered(cluster: ApiServer, actor: Actor) -> None:
    await grant(actor, "other", ["configmaps"])
    config = cluster.kubeconfig_for(OTHER, namespace=actor.namespace)
    timing = Timing(watch=(1.0, 2.0), grace=5.0, backoff=(0.05, 0.3))
    watch = Watch("configmaps", namespace=actor.namespace, kubeconfig=str(config))
    async with Watching(watch, timing=timing) as seen:
        await seen.ready()
        await actor.delete("rolebindings.rbac.authorization.k8s.io", "other")
        await eventually(lambda: "403" in seen.source.progress().detail)
        await actor.configmap("meanwhile")
        await grant(actor, "other", [])
        await seen.until(told("meanwhile", "add"))
        await eventually(lambda: seen.source.progress().detail == "")


async def grant(actor: Actor, user: str, resources: list[str]) -> None:
    """Let a user read resources in the actor's namespace."""
    group = "rbac.authorization.k8s.io"
    if resources:
        rules = [{"apiGroups": [""], "resources": resources, "verbs": ["get", "list", "watch"]}]
        await actor.create(f"roles.{group}", {"metadata": {"name": user}, "rules": rules})
    subjects = [{"kind": "User", "name": user, "apiGroup": group}]
    reference = {"kind": "Role", "name": user, "apiGroup": group}
    binding = {"metadata": {"name": user}, "subjects": subjects, "roleRef": reference}
    await actor.create(f"rolebindings.{group}", binding)


async def test_a_namespace_that_appears_is_watched_where_rights_are_per_namespace(
    cluster: ApiServer, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.kubernetes.joined._RESCOPE_EVERY", 0.3)
    await grant(actor, "plain", ["configmaps"])
    group = "rbac.authorization.k8s.io"
    name = f"list-namespaces-{actor.namespace}"
    rules = [{"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list"]}]
    await actor.create(f"clusterroles.{group}", {"metadata": {"name": name}, "rules": rules})
    subjects = [{"kind": "User", "name": "plain", "apiGroup": group}]
    reference = {"kind": "ClusterRole", "name": name, "apiGroup": group}
    body = {"metadata": {"name": name}, "subjects": subjects, "roleRef": reference}
    await actor.create(f"clusterrolebindings.{group}", body)
    async with Watching(Watch("configmaps", kubeconfig=str(cluster.kubeconfig_for(PLAIN)))) as seen:
        await actor.configmap("granted")
        await seen.until(told("granted", "add"))
        later = Actor(cluster.kubeconfig)
        await later.begin()
        await grant(later, "plain", ["configmaps"])
        await later.configmap("granted-later")
        await seen.until(told("granted-later", "add"))
        await later.close()
    await actor.delete(f"clusterrolebindings.{group}", name)


async def test_awkward_objects_arrive_intact(cluster: ApiServer, actor: Actor) -> None:
    text = (
        'next line \u0085 line separator \u2028 paragraph \u2029 quote " backslash \\ nul-ish \u0001 emoji \U0001f30a'
    )
    async with Watching(Watch("configmaps", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))) as seen:
        await seen.ready()
        await actor.configmap("text", text=text)
        await actor.configmap("large", blob="x" * 900_000)
        annotations = {f"example.com/a{n}": "y" * 90 for n in range(1000)}
        await actor.create("configmaps", {"metadata": {"name": "annotated", "annotations": annotations}})
        await seen.until(lambda events: len(events) == 3)
    found = {event["name"]: event.data for event in seen.events}
    assert found["text"]["data"]["text"] == text
    assert len(found["large"]["data"]["blob"]) == 900_000
    assert found["annotated"]["metadata"]["annotations"] == annotations


async def test_an_object_of_a_megabyte_and_a_half_arrives_intact(cluster: ApiServer, actor: Actor) -> None:
    async with Watching(Watch("pods", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))) as seen:
        await seen.ready()
        variables = [{"name": f"V{n}", "value": "z" * 1000} for n in range(1450)]
        container = {"name": "main", "image": "none", "env": variables}
        await actor.create("pods", {"metadata": {"name": "huge"}, "spec": {"containers": [container]}})
        (event,) = await seen.until(told("huge", "add"))
    assert event.raw is not None
    assert len(event.raw) > 1_450_000
    assert event.data["spec"]["containers"][0]["env"] == variables
    assert json.loads(event.raw) == event.data


async def test_a_list_in_pages_where_lists_cannot_be_streamed(cluster: ApiServer, actor: Actor) -> None:
    for n in range(12):
        await actor.configmap(f"n{n:02}")
    watch = Watch("configmaps", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))
    seen = Watching(watch)
    async with seen:
        await seen.until(lambda events: len(events) == 12)
        (informer,) = seen.source._joined.informers.values()
        informer.reflector.streaming = False
        informer.refresh()
        await actor.delete("configmaps", "n00")
        await seen.until(told("n00", "add", "delete"))
        await actor.configmap("later")
        await seen.until(told("later", "add"))
    assert seen.verbs("n11") == ["add"]


async def test_a_server_that_refuses_streaming_lists_is_listed_in_pages() -> None:
    server = ApiServer(flags=["--feature-gates=WatchList=false"])
    await asyncio.to_thread(server.start)
    owner = Actor(server.kubeconfig)
    await owner.begin()
    await owner.configmap("early")
    try:
        watch = Watch("configmaps", namespace=owner.namespace, kubeconfig=str(server.kubeconfig))
        async with Watching(watch) as seen:
            await seen.until(told("early", "add"))
            await owner.configmap("late")
            await seen.until(told("late", "add"))
            (informer,) = seen.source._joined.informers.values()
            assert not informer.reflector.streaming
    finally:
        await owner.close()
        server.close()


async def test_a_handler_that_is_behind_by_more_than_its_budget_catches_up(cluster: ApiServer, actor: Actor) -> None:
    for n in range(8):
        await actor.configmap(f"n{n}", blob="x" * 50_000)
    watch = Watch("configmaps", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))
    async with Watching(watch, budget=120_000) as seen:
        await seen.until(lambda events: len(events) == 8)
        await actor.delete("configmaps", "n3")
        await actor.configmap("last", blob="y" * 50_000)
        await seen.until(told("last", "add"))
        await seen.until(told("n3", "add", "delete"))
    assert [seen.verbs(f"n{n}") for n in (0, 7)] == [["add"], ["add"]]


async def test_a_handler_that_waits_takes_what_there_was_room_for(cluster: ApiServer, actor: Actor) -> None:
    for n in range(6):
        await actor.configmap(f"n{n}")
    watch = Watch("configmaps", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))
    async with Watching(watch, budget=1) as seen:  # one object at a time, and they come at once
        await seen.until(lambda events: len(events) == 6)
        await actor.delete("configmaps", "n3")
        await seen.until(told("n3", "add", "delete"))
    assert [seen.verbs(f"n{n}") for n in (0, 5)] == [["add"], ["add"]]
