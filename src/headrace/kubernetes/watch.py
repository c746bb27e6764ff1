"""`Watch`: what a user writes to be told of a resource's objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace.errors import ConfigurationError

if TYPE_CHECKING:
    from headrace.engine.broker import Binding
    from headrace.kubernetes.access import Rule
    from headrace.kubernetes.lease import Lease
    from headrace.kubernetes.resources import Resource
    from headrace.kubernetes.source import WatchSource

__all__ = ["Watch"]


class Watch:
    """The objects of one resource as a source of events: what is there, and every change from then on, over restarts
    too.

    Args:
        resource: ``pods``, ``deployments.apps``, ``crontabs.stable.example.com``; kinds and short names work as well.
        namespace: one, or several; default: the whole cluster where RBAC allows it, else each namespace where it does.
        label_selector, field_selector: as kubectl takes them. An object that leaves them arrives as a delete that is
            marked ``deselected``.
        changes: field paths (``"spec"``, ``"status.phase"``); an update that changes none of them is no event.
        initial: whether objects that are there at the very first start arrive, as adds marked ``initial``.
        previous: data is the object beside its previous state (`Change`).
        resync: seconds after which every object's state arrives again, as an update marked ``resync``; default: never.
        metadata_only: the server sends, and data holds, metadata alone (PartialObjectMetadata).
        cache: keep the objects so that ``Cluster.list(…, cached=True)`` answers from memory.
        expiry: core Events only: whether their expiry, an hour after the last occurrence, arrives as a delete.
        knative_types: event types as Knative's ApiServerSource names them.
        lease: replicas compete for it, and only the one that holds it is told.
        kubeconfig, context: which cluster; default: ``KUBECONFIG``, ``~/.kube/config``, or the cluster this runs in.

    Raises:
        ConfigurationError: settings that cannot be meant.
    """

    #: What names the lane of an event where the user names no key; a retry holds it.
    default_lane = "object"
    #: How far it was handled is kept over restarts.
    checkpointed = True
    #: `headrace run --role watcher` runs its handler.
    role = "watcher"

    def __init__(
        self,
        resource: str,
        *,
        namespace: str | Sequence[str] | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        changes: Sequence[str] = (),
        initial: bool = True,
        previous: bool = False,
        resync: float | None = None,
        metadata_only: bool = False,
        cache: bool = False,
        expiry: bool = False,
        knative_types: bool = False,
        lease: Lease | None = None,
        kubeconfig: str | None = None,
        context: str | None = None,
    ) -> None:
        if not resource or "/" in resource or resource != resource.strip():
            raise ConfigurationError(f"Watch({resource!r}): a resource is named such as 'pods' or 'deployments.apps'")
        if isinstance(changes, str):
            raise ConfigurationError(f"Watch({resource!r}): changes is a list of field paths, not a text")
        if resync is not None and resync <= 0:
            raise ConfigurationError(f"Watch({resource!r}): resync is seconds above 0, or None; got {resync!r}")
        namespaces = (namespace,) if isinstance(namespace, str) else None if namespace is None else tuple(namespace)
        if namespaces is not None and not all(namespaces):
            raise ConfigurationError(f"Watch({resource!r}): a namespace's name is empty; leave it out for all of them")
        self.resource = resource
        self.namespaces = namespaces
        self.label_selector = label_selector or ""
        self.field_selector = field_selector or ""
        self.changes = tuple(changes)
        self.initial = initial
        self.previous = previous
        self.resync = resync
        self.metadata_only = metadata_only
        self.cache = cache
        self.expiry = expiry
        self.knative_types = knative_types
        self.lease = lease
        self.kubeconfig = kubeconfig
        self.context = context
        scope = "" if namespaces is None else ",".join(namespaces) + "/"
        self.name = f"kubernetes:{scope}{resource}"

    def __repr__(self) -> str:
        return f"Watch({self.name.removeprefix('kubernetes:')!r})"

    def bind(self, binding: Binding) -> WatchSource:
        """The source for one handler. Raises `ConfigurationError` for field paths that are none."""
        try:
            from headrace.kubernetes.source import WatchSource
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("headrace"):
                raise
            raise ConfigurationError(
                f"handler {binding.handler!r}: {self!r} needs the module {error.name!r}; install headrace[kubernetes]"
            ) from error
        return WatchSource(self, binding)

    def rules(self, resource: Resource, own_namespace: str) -> list[Rule]:
        """The least RBAC this watch needs: reading the resource, recognizing the cluster, holding the lease.

        Args:
            resource: what the server says that the name means.
            own_namespace: where the app runs, and its lease lives unless it says otherwise.
        """
        from headrace.kubernetes.access import Rule

        verbs = ("get", "list", "watch") if self.label_selector or self.field_selector else ("list", "watch")
        scopes: tuple[str | None, ...] = (None,)
        if self.namespaces is not None and resource.namespaced:
            scopes = self.namespaces
        rules = [Rule(group=resource.group, resource=resource.plural, verbs=verbs, namespace=scope) for scope in scopes]
        rules.append(Rule(group="", resource="namespaces", verbs=("get",), names=("kube-system",)))
        if self.lease is not None:
            rules += self.lease.rules(own_namespace)
        return rules
