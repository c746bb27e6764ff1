"""Objects that a watch of this app keeps in memory, for those who would otherwise ask the server."""

from __future__ import annotations

from headrace.errors import ConfigurationError
from headrace.kubernetes.connection import Connection
from headrace.kubernetes.resources import Resource

__all__ = ["cached_objects"]


def cached_objects(
    connection: Connection, resource: Resource, namespace: str, *, selective: bool
) -> list[bytes] | None:
    """The objects' JSON, or ``None`` while the watch that keeps them is not up to date.

    Args:
        namespace: one, or empty for all.
        selective: whether selectors were asked for, which no cache answers.

    Raises:
        ConfigurationError: no watch of that scope keeps a cache.
    """
    caches = [
        informer
        for informer in connection.informers.values()
        if informer.objects is not None
        and informer.resource.name == resource.name
        and informer.selection.namespace in ("", namespace)
        and not (informer.selection.labels or informer.selection.fields)
    ]
    if not caches or selective:
        raise ConfigurationError(
            f"Cluster.list({resource.name!r}, cached=True) needs a Watch({resource.name!r}, cache=True) of the same "
            "scope in this app, and takes no selectors"
        )
    informer = caches[0]
    if not informer.reflector.synced:
        return None
    prefix = f"{namespace}/" if namespace else ""
    return [raw for key, raw in (informer.objects or {}).items() if key.startswith(prefix)]
