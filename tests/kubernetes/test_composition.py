"""From a change to a CloudEvent: what every attribute is, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.kubernetes.composition import Composer
from headrace.kubernetes.resources import Resource
from headrace.kubernetes.store import Delta

PODS = Resource(group="", version="v1", plural="pods", kind="Pod", namespaced=True)
NODES = Resource(group="", version="v1", plural="nodes", kind="Node", namespaced=False)
DEPLOYMENTS = Resource(group="apps", version="v1", plural="deployments", kind="Deployment", namespaced=True)
EVENTS = Resource(group="", version="v1", plural="events", kind="Event", namespaced=True)


def composer(resource: Resource = PODS, *, previous: bool = False, knative: bool = False) -> Composer:
    return Composer("https://cluster", resource, previous=previous, knative=knative)


def delta(verb: Any = "update", key: str = "shop/web", raw: bytes | None = b'{"kind":"Pod"}') -> Delta:
    made = Delta(verb, key, "uid-1", "77", raw)
    made.observed = 1_800_000_000.0
    return made


@pytest.mark.parametrize("verb", ["add", "update", "delete"])
def test_type_id_source_and_subject_say_what_happened_to_what(verb: str) -> None:
    event = composer(DEPLOYMENTS).event(delta(verb))
    assert event.type == f"dev.headrace.kubernetes.resource.{verb}"
    assert event.id == f"uid-1:77:{verb}"
    assert event.source == "https://cluster/apis/apps/v1/deployments"
    assert event.subject == "/apis/apps/v1/namespaces/shop/deployments/web"
    assert (event["kind"], event["apiversion"], event["name"], event["namespace"]) == (
        "Deployment",
        "apps/v1",
        "web",
        "shop",
    )
    assert event.datacontenttype == "application/json"


@pytest.mark.parametrize("verb", ["add", "update", "delete"])
def test_knatives_names_are_an_option(verb: str) -> None:
    assert composer(knative=True).event(delta(verb)).type == f"dev.knative.apiserver.resource.{verb}"


def test_an_object_outside_namespaces_has_no_namespace() -> None:
    event = composer(NODES).event(delta(key="node-1"))
    assert event.subject == "/api/v1/nodes/node-1"
    assert "namespace" not in event


@pytest.mark.parametrize("mark", ["initial", "resync", "deselected"])
def test_marks_are_true_where_they_hold_and_absent_elsewhere(mark: str) -> None:
    marked = delta()
    setattr(marked, mark, True)
    event = composer().event(marked)
    assert event[mark] is True
    assert event.attributes[mark] == "true"
    assert not {"initial", "resync", "deselected", "finalstateunknown"} - {mark} & set(event.attributes)


def test_a_resync_has_an_id_of_its_own() -> None:
    again = delta()
    again.resync = True
    assert composer().event(again).id == "uid-1:77:resync"


def test_a_synthetic_delete_is_known_by_its_last_version_and_holds_who_it_was() -> None:
    gone = delta("delete", raw=None)
    gone.unknown = True
    event = composer().event(gone)
    assert event.id == "uid-1:77:gone"
    assert event["finalstateunknown"] is True
    metadata = {"name": "web", "namespace": "shop", "uid": "uid-1", "resourceVersion": "77"}
    assert event.data == {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


def test_the_same_change_has_the_same_id_whoever_sees_it() -> None:
    assert composer().event(delta()).id == composer().event(delta()).id


def test_previous_puts_the_earlier_state_beside_the_object() -> None:
    change = delta()
    change.previous = b'{"kind":"Pod","old":1}'
    assert composer(previous=True).event(change).data == {
        "object": {"kind": "Pod"},
        "previous": {"kind": "Pod", "old": 1},
    }
    assert composer(previous=True).event(delta("add")).data == {"object": {"kind": "Pod"}, "previous": None}


def test_data_is_the_object_byte_for_byte() -> None:
    raw = '{"kind":"Pod","unknown":{"x":[1]},"text":"\u0085\u2028"}'.encode()
    assert composer().event(delta(raw=raw)).raw == raw


def test_the_lane_is_the_collection_and_the_name() -> None:
    assert composer(DEPLOYMENTS).lane(delta()) == "deployments.apps shop/web"


@pytest.mark.parametrize(
    ("fields", "time"),
    [
        (
            {
                "series": {"lastObservedTime": "2026-01-03T00:00:00.5Z"},
                "lastTimestamp": "2026-01-02T00:00:00Z",
                "eventTime": "2026-01-01T00:00:00Z",
            },
            "2026-01-03T00:00:00.5Z",
        ),
        ({"lastTimestamp": "2026-01-02T00:00:00Z", "eventTime": "2026-01-01T00:00:00Z"}, "2026-01-02T00:00:00Z"),
        ({"lastTimestamp": None, "eventTime": "2026-01-01T00:00:00Z"}, "2026-01-01T00:00:00Z"),
    ],
)
def test_the_time_of_a_core_event_is_its_latest_occurrence(fields: dict[str, Any], time: str) -> None:
    assert composer(EVENTS).event(delta(raw=json.dumps(fields).encode())).attributes["time"] == time


def test_a_name_that_a_path_cannot_hold_is_escaped() -> None:
    assert composer(NODES).event(delta(key="a b?c:d")).subject == "/api/v1/nodes/a%20b%3Fc:d"
