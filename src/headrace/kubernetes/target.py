"""What an action is aimed at: an event of a watch, an object, or a resource and a name.

Aimed with an event or an object, an action carries the object's uid, so that it never hits a namesake that came later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from headrace.errors import ConfigurationError
from headrace.event import Event
from headrace.kubernetes.objects import object_key
from headrace.kubernetes.resources import Resource, Resources

__all__ = ["Target", "aim"]


class Target(NamedTuple):
    """One object. ``uid`` and ``version`` are empty where they are not known."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    version: str

    @property
    def key(self) -> str:
        return object_key(self.namespace, self.name)

    @property
    def title(self) -> str:
        """For messages and audits."""
        return f"{self.resource.name} {self.key}"


async def aim(
    resources: Resources, target: str | Event | Mapping[str, Any], name: str | None, namespace: str | None
) -> Target:
    """The object that is meant.

    Raises:
        ConfigurationError: neither an event of a watch, nor an object, nor a resource with a name.
        ResourceAbsent, ApiError, ConnectionFailed: the resource could not be found.
    """
    if isinstance(target, Event):
        return _of_event(target)
    if isinstance(target, str):
        if not name:
            raise ConfigurationError(f"Cluster: which of the {target}? Give name=")
        resource = await resources.find(target)
        return Target(resource, (namespace or "") if resource.namespaced else "", name, "", "")
    metadata = target.get("metadata") or {}
    kind, api_version = target.get("kind"), target.get("apiVersion")
    if not kind or not api_version or not metadata.get("name"):
        raise ConfigurationError("Cluster: an object is given with its apiVersion, kind and metadata.name")
    group, slash, version = api_version.rpartition("/")
    resource = await resources.find(f"{kind}.{version}.{group}" if slash else kind)
    return Target(
        resource,
        metadata.get("namespace", ""),
        metadata["name"],
        metadata.get("uid", ""),
        metadata.get("resourceVersion", ""),
    )


def _of_event(event: Event) -> Target:
    """The subject is the object's path; the id begins with uid and version."""
    parts = (event.subject or "").split("/")[1:]
    if len(parts) < 4 or parts[0] not in ("api", "apis") or "kind" not in event:
        raise ConfigurationError(
            f"Cluster: the event {event.id!r} is not of a Kubernetes watch; give resource and name"
        )
    group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
    namespaced = "namespace" in event
    plural, name = rest[-2:]
    resource = Resource(group=group, version=version, plural=plural, kind=event["kind"], namespaced=namespaced)
    uid, resource_version, _ = event.id.rsplit(":", 2)
    return Target(resource, event.get("namespace", ""), unquote(name), uid, resource_version)
