"""What a watch says, on a real API server."""

import pytest

from headrace.engine.delivery import ACK
from headrace.kubernetes import Watch
from tests.kubernetes.actor import Actor
from tests.kubernetes.watching import Notebook, Watching, eventually, told, verb
from tests.servers.apiserver import ApiServer


async def test_an_object_is_added_updated_and_deleted(cluster: ApiServer, actor: Actor) -> None:
    async with Watching(Watch("configmaps", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))) as seen:
        await seen.ready()
        made = await actor.configmap("settings", colour="red")
        await seen.until(told("settings", "add"))
        await actor.patch("configmaps", "settings", {"data": {"colour": "blue"}})
        await seen.until(told("settings", "add", "update"))
        await actor.delete("configmaps", "settings")
        added, updated, deleted = await seen.until(told("settings", "add", "update", "delete"))
    uid, version = made["metadata"]["uid"], made["metadata"]["resourceVersion"]
    assert added.id == f"{uid}:{version}:add"
    assert added.type == "dev.headrace.kubernetes.resource.add"
    assert added.source == f"{cluster.url}/api/v1/configmaps"
    assert added.subject == f"/api/v1/namespaces/{actor.namespace}/configmaps/settings"
    assert (added["kind"], added["apiversion"], added["namespace"]) == ("ConfigMap", "v1", actor.namespace)
    assert added.data["data"] == {"colour": "red"}
    assert updated.data["data"] == {"colour": "blue"}
    assert deleted.id.startswith(f"{uid}:")
    assert deleted.data["metadata"]["uid"] == uid
    assert "initial" not in added


async def test_what_is_there_at_the_first_start_arrives_as_initial(cluster: ApiServer, actor: Actor) -> None:
    await actor.configmap("early")
    async with Watching(Watch("configmaps", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))) as seen:
        (event,) = await seen.until(told("early", "add"))
        await seen.ready()
        await actor.configmap("late")
        await seen.until(told("late", "add"))
    assert event["initial"] is True
    assert "initial" not in seen.events[-1]
    assert (event.data["apiVersion"], event.data["kind"]) == ("v1", "ConfigMap")


async def test_initial_false_leaves_out_what_is_there_and_tells_of_its_deletion(
    cluster: ApiServer, actor: Actor
) -> None:
    await actor.configmap("early")
    watch = Watch("configmaps", namespace=actor.namespace, initial=False, kubeconfig=str(cluster.kubeconfig))
    async with Watching(watch) as seen:
        await seen.ready()
        assert seen.events == []
        await actor.patch("configmaps", "early", {"data": {"a": "b"}})
        await actor.delete("configmaps", "early")
        await seen.until(told("early", "update", "delete"))


async def test_a_namesake_is_a_delete_and_an_add(cluster: ApiServer, actor: Actor) -> None:
    async with Watching(Watch("configmaps", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))) as seen:
        await seen.ready()
        first = await actor.configmap("name")
        await actor.delete("configmaps", "name")
        second = await actor.configmap("name")
        await seen.until(told("name", "add", "delete", "add"))
    uids = [event.id.partition(":")[0] for event in seen.events]
    assert uids == [first["metadata"]["uid"]] * 2 + [second["metadata"]["uid"]]


async def test_the_changes_of_an_object_come_one_at_a_time_and_skip_to_the_newest(
    cluster: ApiServer, actor: Actor
) -> None:
    async with Watching(Watch("configmaps", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))) as seen:
        await seen.ready()
        seen.hold = True
        await actor.configmap("busy", n="0")
        await seen.until(told("busy", "add"))
        for n in range(1, 6):
            await actor.patch("configmaps", "busy", {"data": {"n": str(n)}})
        await actor.configmap("other")
        await seen.until(told("other", "add"))
        assert seen.verbs("busy") == ["add"]
        seen.hold = False
        for delivery in seen.held:
            seen.source.settle(delivery, ACK)
        await seen.until(told("busy", "add", "update"))
    assert seen.events[-1].data["data"] == {"n": "5"}


async def test_changes_limits_updates_to_fields_that_matter(cluster: ApiServer, actor: Actor) -> None:
    watch = Watch("pods", namespace=actor.namespace, changes=["status.phase"], kubeconfig=str(cluster.kubeconfig))
    async with Watching(watch) as seen:
        await seen.ready()
        await actor.pod("web")
        await seen.until(told("web", "add"))
        await actor.patch("pods", "web", {"metadata": {"labels": {"a": "b"}}})
        await actor.status("web", {"phase": "Running"})
        await seen.until(told("web", "add", "update"))
        await actor.patch("pods", "web", {"metadata": {"labels": {"a": "c"}}})
        await actor.delete("pods", "web")
        await seen.until(told("web", "add", "update", "delete"))
    assert seen.events[1].data["status"]["phase"] == "Running"


async def test_previous_gives_the_state_that_was_shown_before(cluster: ApiServer, actor: Actor) -> None:
    watch = Watch("configmaps", namespace=actor.namespace, previous=True, kubeconfig=str(cluster.kubeconfig))
    async with Watching(watch) as seen:
        await seen.ready()
        await actor.configmap("settings", colour="red")
        await seen.until(told("settings", "add"))
        await actor.patch("configmaps", "settings", {"data": {"colour": "blue"}})
        added, updated = await seen.until(told("settings", "add", "update"))
    assert added.data["previous"] is None
    assert updated.data["previous"]["data"] == {"colour": "red"}
    assert updated.data["object"]["data"] == {"colour": "blue"}
    assert "managedFields" not in updated.data["previous"]["metadata"]


async def test_an_object_that_leaves_the_selector_is_deselected_and_a_deleted_one_is_not(
    cluster: ApiServer, actor: Actor
) -> None:
    watch = Watch("pods", namespace=actor.namespace, label_selector="app=web", kubeconfig=str(cluster.kubeconfig))
    async with Watching(watch) as seen:
        await seen.ready()
        await actor.pod("leaves", labels={"app": "web"})
        await actor.pod("ends", labels={"app": "web"})
        await actor.pod("other", labels={"app": "db"})
        await actor.patch("pods", "leaves", {"metadata": {"labels": {"app": "db"}}})
        await actor.delete("pods", "ends")
        await seen.until(lambda events: sum(verb(event) == "delete" for event in events) == 2)
        await actor.patch("pods", "leaves", {"metadata": {"labels": {"app": "web"}}})
        await seen.until(told("leaves", "add", "delete", "add"))
    marks = {event["name"]: event.get("deselected") for event in seen.events if verb(event) == "delete"}
    assert marks == {"leaves": True, "ends": None}
    assert seen.verbs("other") == []


async def test_resync_shows_every_object_again_and_marks_it(cluster: ApiServer, actor: Actor) -> None:
    await actor.configmap("one")
    notebook = Notebook()
    watch = Watch("configmaps", namespace=actor.namespace, resync=0.3, kubeconfig=str(cluster.kubeconfig))
    async with Watching(watch, checkpoints=notebook) as seen:
        await seen.until(lambda events: len(events) >= 3)
    assert [verb(event) for event in seen.events[:3]] == ["add", "update", "update"]
    assert [event.get("resync") for event in seen.events[:3]] == [None, True, True]


async def test_a_metadata_only_watch_carries_no_more_than_metadata(cluster: ApiServer, actor: Actor) -> None:
    await actor.configmap("big", data="x" * 1000)
    watch = Watch("configmaps", namespace=actor.namespace, metadata_only=True, kubeconfig=str(cluster.kubeconfig))
    async with Watching(watch) as seen:
        (event,) = await seen.until(told("big", "add"))
    assert event.data["kind"] == "PartialObjectMetadata"
    assert "data" not in event.data
    assert event["kind"] == "ConfigMap"


async def test_two_handlers_on_one_selection_share_one_watch(cluster: ApiServer, actor: Actor) -> None:
    watch = Watch("configmaps", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))
    await actor.configmap("early")
    async with Watching(watch, handler="first") as first:
        await first.until(told("early", "add"))
        async with Watching(watch, handler="second") as second:
            await second.until(told("early", "add"))
            await actor.configmap("late")
            await first.until(told("late", "add"))
            await second.until(told("late", "add"))
            connection = first.source._connection
            assert connection is second.source._connection
            assert connection is not None
            assert len(connection.informers) == 1
    assert first.verbs("early") == ["add"]


async def test_the_whole_cluster_is_watched_without_a_namespace(cluster: ApiServer, actor: Actor) -> None:
    async with Watching(Watch("pods", kubeconfig=str(cluster.kubeconfig))) as seen:
        await seen.ready()
        await actor.pod("here")
        await seen.until(told("here", "add"))
        other = f"{actor.namespace}-b"
        await actor.make_namespace(other)
        body = {"metadata": {"name": "there"}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
        await actor.create("pods", body, namespace=other)
        await seen.until(told("there", "add"))
        connection = seen.source._connection
        assert connection is not None
        assert [selection.namespace for selection in connection.informers] == [""]


@pytest.mark.parametrize("name", ["deployments.apps", "deployments", "deploy", "Deployment", "deployments.v1.apps"])
async def test_a_resource_is_found_by_any_of_its_names(cluster: ApiServer, actor: Actor, name: str) -> None:
    async with Watching(Watch(name, namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))) as seen:
        await seen.ready()
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
        spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
        await actor.create("deployments.apps", {"metadata": {"name": "web"}, "spec": spec})
        (event,) = await seen.until(told("web", "add"))
    assert event.subject == f"/apis/apps/v1/namespaces/{actor.namespace}/deployments/web"


async def test_core_events_repeat_as_updates_and_their_expiry_is_dropped(cluster: ApiServer, actor: Actor) -> None:
    async with Watching(Watch("events", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))) as seen:
        await seen.ready()
        about = {"kind": "Pod", "name": "web", "namespace": actor.namespace}
        body = {"metadata": {"name": "e1"}, "involvedObject": about, "reason": "BackOff", "count": 1}
        await actor.create("events", {**body, "lastTimestamp": "2026-01-01T00:00:00Z", "eventTime": None})
        await seen.until(told("e1", "add"))
        series = {"count": 2, "lastTimestamp": "2026-01-01T00:05:00Z"}
        await actor.patch("events", "e1", series)
        await seen.until(told("e1", "add", "update"))
        await actor.delete("events", "e1")
        await actor.create("events", {**body, "metadata": {"name": "e2"}})
        await seen.until(told("e2", "add"))
    assert seen.verbs("e1") == ["add", "update"]
    assert [event.attributes["time"] for event in seen.events[:2]] == ["2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"]


async def test_a_field_selector_limits_what_is_told(cluster: ApiServer, actor: Actor) -> None:
    watch = Watch(
        "configmaps",
        namespace=actor.namespace,
        field_selector="metadata.name=wanted",
        kubeconfig=str(cluster.kubeconfig),
    )
    async with Watching(watch) as seen:
        await seen.ready()
        await actor.configmap("unwanted")
        await actor.configmap("wanted")
        await seen.until(told("wanted", "add"))
        await actor.delete("configmaps", "wanted")
        await seen.until(told("wanted", "add", "delete"))
    assert {event["name"] for event in seen.events} == {"wanted"}
    assert "deselected" not in seen.events[-1]


async def test_several_namespaces_are_watched_and_no_other(cluster: ApiServer, actor: Actor) -> None:
    second, other = Actor(cluster.kubeconfig), Actor(cluster.kubeconfig)
    for made in (second, other):
        await made.begin()
    watch = Watch("configmaps", namespace=[actor.namespace, second.namespace], kubeconfig=str(cluster.kubeconfig))
    async with Watching(watch) as seen:
        await seen.ready()
        for one in (other, actor, second):
            await one.configmap("name")
        await seen.until(lambda events: len(events) == 2)
    assert {event["namespace"] for event in seen.events} == {actor.namespace, second.namespace}
    for made in (second, other):
        await made.close()


async def test_memory_is_given_back_once_a_list_was_handled(
    cluster: ApiServer, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr("headrace.kubernetes.source.give_back", lambda: given.append(len(seen.events)))
    for name in ("one", "two"):
        await actor.configmap(name)
    async with Watching(Watch("configmaps", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))) as seen:
        await eventually(lambda: given)
        await actor.configmap("three")
        await seen.until(told("three", "add"))
    assert given == [2]
