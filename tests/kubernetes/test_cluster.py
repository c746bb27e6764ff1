"""Acting back on a real API server: preconditions, limits, audits, and our own writes read back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from headrace.engine.delivery import ACK
from headrace.errors import ConfigurationError
from headrace.kubernetes import ApiError, Budget, Cluster, RepairRefused, Watch
from headrace.kubernetes.guard import Action, Guard
from tests.kubernetes.actor import Actor
from tests.kubernetes.watching import Watching, told
from tests.servers.apiserver import ApiServer

TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
DEPLOYMENT = {
    "metadata": {"name": "web"},
    "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE},
}


@pytest.fixture
async def acting(cluster: ApiServer, actor: Actor) -> AsyncIterator[Cluster]:
    async with Cluster(kubeconfig=str(cluster.kubeconfig), component=actor.namespace) as made:
        yield made


async def test_get_and_list(acting: Cluster, actor: Actor) -> None:
    await actor.configmap("one", a="1")
    found = await acting.get("configmaps", "one", namespace=actor.namespace)
    assert found["data"] == {"a": "1"}
    (listed,) = await acting.list("configmaps", namespace=actor.namespace)
    assert (listed["kind"], listed["apiVersion"]) == ("ConfigMap", "v1")
    with pytest.raises(ApiError) as raised:
        await acting.get("configmaps", "two", namespace=actor.namespace)
    assert raised.value.code == 404


async def test_an_action_on_an_event_never_hits_a_namesake(cluster: ApiServer, actor: Actor, acting: Cluster) -> None:
    watch = Watch("pods", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))
    async with Watching(watch) as seen:
        await seen.ready()
        await actor.pod("web")
        (event,) = await seen.until(told("web", "add"))
    await actor.delete("pods", "web")
    await actor.pod("web")
    for act in (
        acting.delete(event),
        acting.evict(event),
        acting.patch(event, {"metadata": {"labels": {"x": "y"}}}),
        acting.patch(event, [{"op": "add", "path": "/metadata/labels", "value": {"x": "y"}}], kind="json"),
        acting.patch(event, {"metadata": {"labels": {"x": "y"}}}, kind="strategic"),
        acting.patch(event, {"metadata": {"labels": {"x": "y"}}}, kind="apply"),
    ):
        with pytest.raises(ApiError) as raised:
            await act
        assert raised.value.code == 409
    assert "x" not in (await actor.get("pods", "web"))["metadata"].get("labels", {})


async def test_unchanged_insists_on_the_version_that_was_seen(actor: Actor, acting: Cluster) -> None:
    seen = await actor.configmap("one", a="1")
    await actor.patch("configmaps", "one", {"data": {"a": "2"}})
    with pytest.raises(ApiError) as raised:
        await acting.patch(seen, {"data": {"a": "3"}}, unchanged=True)
    assert raised.value.code == 409
    for act in (
        acting.delete(seen, unchanged=True),
        acting.patch(seen, [{"op": "remove", "path": "/data/a"}], kind="json", unchanged=True),
    ):
        with pytest.raises(ApiError, match="409"):
            await act
    patched = await acting.patch(seen, {"data": {"a": "3"}})
    assert patched["data"] == {"a": "3"}


async def test_patches_of_every_kind(actor: Actor, acting: Cluster) -> None:
    made = await actor.configmap("one", a="1")
    where = {"name": "one", "namespace": actor.namespace}
    await acting.patch("configmaps", {"data": {"b": "2"}}, **where)
    await acting.patch("configmaps", [{"op": "remove", "path": "/data/a"}], kind="json", **where)
    await acting.patch("configmaps", {"data": {"c": "3"}}, kind="strategic", **where)
    applied = await acting.patch(made, {"data": {"d": "4"}}, kind="apply", force=True)
    assert applied["data"] == {"b": "2", "c": "3", "d": "4"}
    managers = {entry["manager"]: entry["operation"] for entry in applied["metadata"]["managedFields"]}
    assert managers[actor.namespace] == "Apply" or "Apply" in {
        entry["operation"] for entry in applied["metadata"]["managedFields"] if entry["manager"] == actor.namespace
    }


async def test_delete_evict_restart_and_scale(actor: Actor, acting: Cluster) -> None:
    pod = await actor.pod("deleted")
    await acting.delete(pod, grace_seconds=0)
    other = await actor.pod("evicted")
    await acting.evict(other, grace_seconds=0)
    assert await actor.list("pods") == []
    deployment = await actor.create("deployments.apps", DEPLOYMENT)
    await acting.scale(deployment, 3)
    await acting.restart(deployment)
    now = await actor.get("deployments.apps", "web")
    assert now["spec"]["replicas"] == 3
    assert "kubectl.kubernetes.io/restartedAt" in now["spec"]["template"]["metadata"]["annotations"]
    assert not any("headrace" in key for key in now["metadata"].get("annotations", {}))
    assert "finalizers" not in now["metadata"]


async def test_a_dry_run_changes_and_audits_nothing(actor: Actor, acting: Cluster) -> None:
    pod = await actor.pod("web")
    await acting.delete(pod, dry_run=True)
    await acting.evict(pod, dry_run=True)
    labelled = await acting.patch(pod, {"metadata": {"labels": {"x": "y"}}}, dry_run=True)
    assert labelled["metadata"]["labels"] == {"x": "y"}
    assert "x" not in (await actor.get("pods", "web"))["metadata"].get("labels", {})
    assert [found["metadata"]["name"] for found in await actor.list("pods")] == ["web"]
    assert await actor.list("events") == []


async def test_every_action_is_audited_before_it_is_carried_out(actor: Actor, acting: Cluster) -> None:
    pod = await actor.pod("web")
    await acting.delete(pod, reason="it crash-loops")
    (event,) = await actor.list("events")
    assert (event["reason"], event["action"]) == ("Repair", "delete")
    assert event["involvedObject"]["uid"] == pod["metadata"]["uid"]
    assert "it crash-loops" in event["message"]
    assert event["reportingComponent"] == f"headrace/{actor.namespace}"
    with pytest.raises(ApiError):
        await acting.delete(pod)  # gone already; the attempt is written down all the same
    assert len(await actor.list("events")) == 2


async def test_an_event_can_be_written_about_an_object(actor: Actor, acting: Cluster) -> None:
    pod = await actor.pod("web")
    await acting.create_event(pod, reason="Flooded", message="water in the wheel", type="Warning")
    (event,) = await actor.list("events")
    assert (event["reason"], event["type"], event["message"]) == ("Flooded", "Warning", "water in the wheel")


async def test_cooldown_and_budget_survive_the_process(cluster: ApiServer, actor: Actor) -> None:
    def fresh() -> Cluster:
        return Cluster(
            kubeconfig=str(cluster.kubeconfig), component=actor.namespace, cooldown=60, budget=Budget(2, per=3600)
        )

    one, two, three = [await actor.pod(name) for name in ("one", "two", "three")]
    label = {"metadata": {"labels": {"x": "y"}}}
    async with fresh() as acting:
        await acting.patch(one, label)
        with pytest.raises(RepairRefused, match="cooldown") as raised:
            await acting.patch(one, label)
        assert 0 < raised.value.retry_after <= 60
    async with fresh() as acting:  # the process died and came back
        with pytest.raises(RepairRefused, match="cooldown"):
            await acting.patch(one, label)
        await acting.patch(two, label)
        with pytest.raises(RepairRefused, match="budget"):
            await acting.patch(three, label)


def test_the_budget_frees_itself_as_time_goes_by() -> None:
    guard = Guard(cooldown=0, budget=Budget(2, per=100))
    guard.remember([Action("a", "x", 0.0), Action("b", "y", 50.0)])
    with pytest.raises(RepairRefused) as raised:
        guard.admit("z", 60.0)
    assert raised.value.retry_after == 40.0
    guard.admit("z", 101.0)


async def test_what_is_not_allowed_is_refused_before_the_server_is_asked(cluster: ApiServer, actor: Actor) -> None:
    async with Cluster(kubeconfig=str(cluster.kubeconfig), allow={"pods": ["delete"]}) as acting:
        pod = await actor.pod("web")
        with pytest.raises(ConfigurationError, match="patch of pods"):
            await acting.patch(pod, {"metadata": {"labels": {"x": "y"}}})
        await acting.delete(pod)


async def test_a_cached_list_answers_from_the_watchs_memory(cluster: ApiServer, actor: Actor) -> None:
    watch = Watch("configmaps", namespace=actor.namespace, cache=True, kubeconfig=str(cluster.kubeconfig))
    acting = Cluster(kubeconfig=str(cluster.kubeconfig))
    async with Watching(watch) as seen:
        await seen.ready()
        await actor.configmap("one", a="1")
        await seen.until(told("one", "add"))
        (found,) = await acting.list("configmaps", namespace=actor.namespace, cached=True)
        await actor.delete("configmaps", "one")
        await seen.until(told("one", "add", "delete"))
        assert await acting.list("configmaps", namespace=actor.namespace, cached=True) == []
        with pytest.raises(ConfigurationError, match="cache=True"):
            await acting.list("pods", cached=True)
    assert found["data"] == {"a": "1"}
    assert "managedFields" not in found["metadata"]


async def test_no_handler_is_run_on_a_state_older_than_its_own_patch(cluster: ApiServer, actor: Actor) -> None:
    watch = Watch("configmaps", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))
    acting = Cluster(kubeconfig=str(cluster.kubeconfig))
    async with Watching(watch) as seen:
        await seen.ready()
        seen.hold = True
        await actor.configmap("one", n="0")
        await seen.until(told("one", "add"))
        # A state that waits while we patch: it is older than our patch by the time it could be handled.
        await actor.patch("configmaps", "one", {"data": {"n": "1"}})
        source = seen.source
        async with asyncio.timeout(10):
            while not len(source._backlog):
                await asyncio.sleep(0.01)
        source._backlog.block(f"{actor.namespace}/one")
        assert seen.events[0].data["data"] == {"n": "0"}
        informers = list(source._joined.informers.values())
        stale = source._backlog.waiting(f"{actor.namespace}/one")
        assert stale is not None
        before = stale.version
        tell, informers[0]._subscribers = informers[0]._subscribers, []  # the watch is late
        patched = await acting.patch(seen.events[0], {"data": {"n": "2"}})
        source._backlog.unblock(f"{actor.namespace}/one")
        source.settle(seen.held[0], ACK)
        assert not source._backlog.ready  # held: it shows version `before`
        informers[0]._subscribers = tell
        informers[0].refresh()
        await seen.until(told("one", "add", "update"))
    assert before != patched["metadata"]["resourceVersion"]
    assert seen.events[-1].data["data"] == {"n": "2"}
