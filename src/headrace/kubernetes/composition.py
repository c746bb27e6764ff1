"""From a delta to a CloudEvent.

Ids are derived from uid, version and verb, so that the same change has the same id whenever and by whomever it is seen;
the source names cluster and collection, the subject is the object's path. Data is the object's JSON as the server
sent it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from headrace.engine.delivery import Delivery
from headrace.event import Event
from headrace.kubernetes.resources import Resource, escaped
from headrace.kubernetes.store import Delta

__all__ = ["Composer", "WatchDelivery"]

_TYPES: Final = {verb: f"dev.headrace.kubernetes.resource.{verb}" for verb in ("add", "update", "delete")}
#: The names of Knative's ApiServerSource, for triggers that were written for it.
_KNATIVE: Final = {verb: f"dev.knative.apiserver.resource.{verb}" for verb in ("add", "update", "delete")}
#: What a delivery costs beside the object's bytes, roughly.
_OVERHEAD: Final = 1024


class _Series(msgspec.Struct, frozen=True, rename="camel"):
    last_observed_time: str | None = None


class _Times(msgspec.Struct, frozen=True, rename="camel"):
    """The times of a core Event; the names of both APIs."""

    series: _Series | None = None
    last_timestamp: str | None = None
    deprecated_last_timestamp: str | None = None
    event_time: str | None = None


_times = msgspec.json.Decoder(_Times)


class WatchDelivery(Delivery):
    """One change of one object, on its way to one handler."""

    __slots__ = ("delta", "lane", "scope")

    delta: Delta
    lane: str
    scope: str

    @property
    def metadata(self) -> Mapping[str, str | int | float]:
        delta = self.delta
        return {"resource": self.scope, "object": delta.key, "uid": delta.uid, "resourceversion": delta.version}


class Composer:
    """Makes the events of one watch.

    Args:
        server: the API server's address, the first part of every source.
        resource: what is watched.
        previous: data is the object beside its previous state.
        knative: event types as Knative names them.

    Attributes:
        core_events: what is watched are core Events.
    """

    def __init__(self, server: str, resource: Resource, *, previous: bool, knative: bool) -> None:
        self._resource = resource
        self._name = resource.name
        self._same: dict[str, Any] = {
            "specversion": "1.0",
            "source": server + resource.path(),
            "datacontenttype": "application/json",
            "kind": resource.kind,
            "apiversion": resource.api_version,
        }
        self._paths: dict[str, str] = {}  # of the namespaces seen, with the slash before a name
        self._types = _KNATIVE if knative else _TYPES
        self._previous = previous
        self.core_events = resource.plural == "events" and resource.group in ("", "events.k8s.io")
        self._observed = -1.0
        self._time = ""

    def lane(self, delta: Delta) -> str:
        """Collection and namespace/name: by uid, a delete and the add of its namesake would race."""
        return f"{self._name} {delta.key}"

    def size(self, delta: Delta) -> int:
        """Bytes that the delivery holds."""
        raw, previous = delta.raw, delta.previous
        held = _OVERHEAD + (0 if raw is None else len(raw))
        return held + len(previous) if self._previous and previous is not None else held

    def event(self, delta: Delta) -> Event:
        """The event of a delta."""
        namespace, slash, name = delta.key.rpartition("/")
        verb = delta.verb
        raw = delta.raw
        suffix = "resync" if delta.resync else "gone" if delta.unknown else verb
        path = self._paths.get(namespace)
        if path is None:
            path = self._paths[namespace] = self._resource.path(namespace) + "/"
        attributes: dict[str, Any] = self._same.copy()
        attributes["id"] = f"{delta.uid}:{delta.version}:{suffix}"
        attributes["type"] = self._types[verb]
        attributes["subject"] = path + escaped(name)
        attributes["time"] = self._when(delta)
        attributes["name"] = name
        if slash:
            attributes["namespace"] = namespace
        if delta.initial:
            attributes["initial"] = True
        if delta.resync:
            attributes["resync"] = True
        if delta.deselected:
            attributes["deselected"] = True
        if delta.unknown:
            attributes["finalstateunknown"] = True
        if raw is None:
            raw = self._remains(delta, namespace, name)
        if self._previous:
            raw = b'{"object":%s,"previous":%s}' % (raw, delta.previous or b"null")
        return Event._trusted(attributes, raw)

    def _remains(self, delta: Delta, namespace: str, name: str) -> bytes:
        """What is known of an object that vanished unseen."""
        metadata = {"name": name, "namespace": namespace, "uid": delta.uid, "resourceVersion": delta.version}
        if not namespace:
            del metadata["namespace"]
        resource = self._resource
        return msgspec.json.encode({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata})

    def _when(self, delta: Delta) -> str:
        if self.core_events and delta.raw is not None:
            times = _times.decode(delta.raw)
            last = times.last_timestamp or times.deprecated_last_timestamp
            series = times.series.last_observed_time if times.series is not None else None
            found = series or last or times.event_time
            if found:
                return found
        if delta.observed != self._observed:
            # Deltas come in batches that were observed together.
            self._observed = delta.observed
            self._time = datetime.fromtimestamp(delta.observed, UTC).isoformat()[:-6] + "Z"
        return self._time
