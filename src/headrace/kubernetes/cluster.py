"""`Cluster`: how handlers act back on a cluster, within limits.

Every action that changes something (`acting`) checks the lease (where there is one), the cooldown of its object and the
cluster's budget, writes an audit event, and only then goes to the server, with preconditions. What the server answers
is remembered: no handler of this process is run on a state older than that. Nothing of ours is ever put on the user's
objects.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal, Self
from weakref import WeakSet

import msgspec

from headrace.errors import ConfigurationError
from headrace.event import Event
from headrace.kubernetes.access import Rule
from headrace.kubernetes.acting import VERBS, Actions
from headrace.kubernetes.audit import Audits
from headrace.kubernetes.caches import cached_objects
from headrace.kubernetes.connection import Connection
from headrace.kubernetes.guard import Budget, Guard
from headrace.kubernetes.kubeconfig import resolve
from headrace.kubernetes.lease import Lease
from headrace.kubernetes.preconditions import PatchKind, delete_options, with_preconditions
from headrace.kubernetes.resources import Resource
from headrace.kubernetes.target import Target, aim

__all__ = ["Cluster", "declared_clusters"]

Aim = str | Event | Mapping[str, Any]

_PATCHES: Final = {
    "merge": "application/merge-patch+json",
    "apply": "application/apply-patch+yaml",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}
#: The annotation that ``kubectl rollout restart`` sets, on the pod template.
_RESTARTED: Final = "kubectl.kubernetes.io/restartedAt"
_PAGE: Final = "500"

_declared: WeakSet[Cluster] = WeakSet()


def declared_clusters() -> builtins.list[Cluster]:
    """Every `Cluster` of this process, for the RBAC that the app needs."""
    return list(_declared)


class Cluster:
    """A cluster to act on.

    Args:
        allow: what this app does, by resource: ``{"pods": ["delete", "evict"]}``. Anything else is refused here, and
            ``headrace manifest --rbac`` grants exactly this; default: whatever the credentials may.
        lease: act only while this process holds it; where no `Watch` competes for it, this object does from its first
            action on.
        cooldown: seconds between two actions on one object.
        budget: a limit over all objects.
        dry_run: the server checks everything and changes nothing; nothing is audited or counted.
        audit: whether each action is written down as an Event of its object before it is carried out.
        component: who acts, as audits name it; give each app its own.
        kubeconfig, context: which cluster; as for `Watch`.

    Use it as an async context manager, or `close` it, where no `Watch` on the same cluster is at work beside it.
    """

    def __init__(
        self,
        *,
        allow: Mapping[str, Sequence[str]] | None = None,
        lease: Lease | None = None,
        cooldown: float = 0.0,
        budget: Budget | None = None,
        dry_run: bool = False,
        audit: bool = True,
        component: str = "headrace",
        kubeconfig: str | None = None,
        context: str | None = None,
    ) -> None:
        for resource, actions in (allow or {}).items():
            unknown = [action for action in actions if action not in VERBS]
            if unknown:
                raise ConfigurationError(f"Cluster(allow={{{resource!r}: …}}): {unknown} are none of {sorted(VERBS)}")
        self.allow = None if allow is None else {resource: tuple(actions) for resource, actions in allow.items()}
        self.lease = lease
        self.dry_run = dry_run
        self.audit = audit
        self._audits = Audits(component)
        self.component = component
        self.kubeconfig = kubeconfig
        self.context = context
        self._actions = Actions(
            allow=self.allow,
            lease=lease,
            guard=Guard(cooldown=cooldown, budget=budget),
            audits=self._audits if audit else None,
            component=component,
        )
        self._own: Connection | None = None
        _declared.add(self)

    async def __aenter__(self) -> Self:
        self._connection()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give back the lease that this object competed for, and close the connection that was opened for it alone."""
        await self._actions.rest()
        own, self._own = self._own, None
        if own is not None:
            await own.release()

    # Reading

    async def get(self, target: Aim, name: str | None = None, *, namespace: str | None = None) -> dict[str, Any]:
        """The object as it is now. Raises `ApiError` (404 where there is none), `ConnectionFailed`."""
        connection = self._connection()
        found = await aim(connection.resources, target, name, namespace)
        self._actions.check_allowed(found.resource, "get")
        body = await connection.client.request("GET", _path(found))
        return _object(body)

    async def list(
        self,
        resource: str,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        cached: bool = False,
    ) -> list[dict[str, Any]]:
        """The objects of a resource.

        Args:
            cached: from the memory of a ``Watch(…, cache=True)`` of this app where it is up to date (without
                managedFields), else from the server; selectors are not for it.

        Raises `ApiError`, `ConnectionFailed`; `ConfigurationError` where no watch keeps a cache.
        """
        connection = self._connection()
        found = await connection.resources.find(resource)
        self._actions.check_allowed(found, "list")
        if cached:
            remembered = cached_objects(
                connection, found, namespace or "", selective=bool(label_selector or field_selector)
            )
            if remembered is not None:
                return [_object(raw) for raw in remembered]
        objects: list[dict[str, Any]] = []
        token = ""
        while True:
            query = [("limit", _PAGE)]
            if token:
                query.append(("continue", token))
            if label_selector:
                query.append(("labelSelector", label_selector))
            if field_selector:
                query.append(("fieldSelector", field_selector))
            page = _object(await connection.client.request("GET", found.path(namespace or ""), query=query))
            items = page.get("items") or ()
            objects.extend({"apiVersion": found.api_version, "kind": found.kind, **item} for item in items)
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                return objects

    # Acting

    async def patch(
        self,
        target: Aim,
        patch: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        name: str | None = None,
        namespace: str | None = None,
        kind: PatchKind = "merge",
        subresource: str = "",
        uid: str | None = None,
        version: str | None = None,
        unchanged: bool = False,
        force: bool = False,
        dry_run: bool | None = None,
        reason: str = "",
    ) -> dict[str, Any]:
        """Change an object; what it is then.

        Args:
            target: an event of a watch, an object, or a resource's name (then with ``name``).
            kind: merge patch (RFC 7386), server-side ``apply``, ``json`` patch (RFC 6902, a list), or ``strategic``.
            uid, version: refuse where the object has another (409); an event or object brings its uid along.
            unchanged: also insist on the version that the event or object shows.
            force: with ``apply``, take fields over from other managers.
            dry_run: as for the class.
            reason: why, in words, for the audit.

        Raises:
            ApiError: the server refused; 409 where a precondition fails.
            RepairRefused: the cooldown or the budget forbids it.
            LeaseLost: another replica leads.
            ConnectionFailed: it may or may not have been carried out.
        """
        aimed = await self._aim(target, name, namespace, uid, version, unchanged)
        body = with_preconditions(patch, kind, aimed)
        query = [("fieldManager", self.component)]
        if kind == "apply" and force:
            query.append(("force", "true"))
        path = aimed.resource.path(aimed.namespace, aimed.name, subresource)
        return await self._act(
            "patch", aimed, "PATCH", path, body, dry_run, reason, query=query, content_type=_PATCHES[kind]
        )

    async def delete(
        self,
        target: Aim,
        name: str | None = None,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        version: str | None = None,
        unchanged: bool = False,
        grace_seconds: int | None = None,
        dry_run: bool | None = None,
        reason: str = "",
    ) -> dict[str, Any]:
        """Delete an object; ``grace_seconds`` overrides its own. Arguments, answer and errors otherwise as `patch`."""
        aimed = await self._aim(target, name, namespace, uid, version, unchanged)
        options = delete_options(aimed, grace_seconds, self._is_dry(dry_run))
        return await self._act("delete", aimed, "DELETE", _path(aimed), options, dry_run, reason)

    async def evict(
        self,
        target: Aim,
        name: str | None = None,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        version: str | None = None,
        unchanged: bool = False,
        grace_seconds: int | None = None,
        dry_run: bool | None = None,
        reason: str = "",
    ) -> dict[str, Any]:
        """Delete a pod as its disruption budget allows (429 where it does not). Otherwise as `delete`."""
        aimed = await self._aim(target, name, namespace, uid, version, unchanged)
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": aimed.name, "namespace": aimed.namespace},
            "deleteOptions": delete_options(aimed, grace_seconds, self._is_dry(dry_run)),
        }
        path = aimed.resource.path(aimed.namespace, aimed.name, "eviction")
        return await self._act("evict", aimed, "POST", path, body, dry_run, reason)

    async def restart(
        self,
        target: Aim,
        name: str | None = None,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        dry_run: bool | None = None,
        reason: str = "",
    ) -> dict[str, Any]:
        """Restart the rollout of a Deployment, StatefulSet or DaemonSet, as ``kubectl rollout restart`` does. As
        `patch`."""
        aimed = await self._aim(target, name, namespace, uid, None, False)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        patch = {"spec": {"template": {"metadata": {"annotations": {_RESTARTED: now}}}}}
        body = with_preconditions(patch, "merge", aimed)
        return await self._act(
            "restart", aimed, "PATCH", _path(aimed), body, dry_run, reason, content_type=_PATCHES["merge"]
        )

    async def scale(
        self,
        target: Aim,
        replicas: int,
        *,
        name: str | None = None,
        namespace: str | None = None,
        uid: str | None = None,
        dry_run: bool | None = None,
        reason: str = "",
    ) -> dict[str, Any]:
        """Set the number of replicas of anything that can be scaled. As `patch`."""
        aimed = await self._aim(target, name, namespace, uid, None, False)
        body = with_preconditions({"spec": {"replicas": replicas}}, "merge", aimed)
        path = aimed.resource.path(aimed.namespace, aimed.name, "scale")
        return await self._act("scale", aimed, "PATCH", path, body, dry_run, reason, content_type=_PATCHES["merge"])

    async def create_event(
        self,
        target: Aim,
        name: str | None = None,
        *,
        namespace: str | None = None,
        reason: str,
        message: str,
        type: Literal["Normal", "Warning"] = "Normal",
    ) -> dict[str, Any]:
        """Write an Event about an object, as controllers do (``kubectl describe`` shows it). Raises `ApiError`."""
        connection = self._connection()
        await self._actions.lead(connection)
        aimed = await aim(connection.resources, target, name, namespace)
        return await self._audits.write(connection, aimed, reason=reason, message=message, type=type)

    # For RBAC

    def rules(self, resources: Mapping[str, Resource], own_namespace: str) -> builtins.list[Rule]:
        """The least RBAC for ``allow``, audits and the lease; ``resources`` as the server names them."""
        rules: builtins.list[Rule] = []
        for name, actions in (self.allow or {}).items():
            resource = resources[name]
            for action in actions:
                verb, subresource = VERBS[action]
                plural = f"{resource.plural}/{subresource}" if subresource else resource.plural
                rules.append(Rule(group=resource.group, resource=plural, verbs=(verb,)))
        if self.audit and any(
            action not in ("get", "list") for actions in (self.allow or {}).values() for action in actions
        ):
            verbs = ("create", "list") if self._actions.guard.horizon else ("create",)
            rules.append(Rule(group="", resource="events", verbs=verbs))
        if self.lease is not None:
            rules += self.lease.rules(own_namespace)
        return rules

    # Inside

    def _connection(self) -> Connection:
        if self._own is not None:
            return self._own
        cluster = resolve(self.kubeconfig, self.context)
        shared = Connection.shared(cluster)
        if shared is not None:
            return shared
        self._own = Connection.acquire(cluster)
        return self._own

    async def _aim(
        self,
        target: Aim,
        name: str | None,
        namespace: str | None,
        uid: str | None,
        version: str | None,
        unchanged: bool,
    ) -> Target:
        aimed = await aim(self._connection().resources, target, name, namespace)
        if unchanged and not (version or aimed.version):
            raise ConfigurationError("Cluster: unchanged=True needs an event, an object or version=, to say since when")
        return aimed._replace(uid=uid or aimed.uid, version=version or (aimed.version if unchanged else ""))

    async def _act(
        self,
        action: str,
        aimed: Target,
        method: str,
        path: str,
        body: Any,
        dry_run: bool | None,
        reason: str,
        **how: Any,
    ) -> dict[str, Any]:
        dry = self._is_dry(dry_run)
        return await self._actions.carry_out(
            self._connection(), action, aimed, method, path, body, dry=dry, reason=reason, **how
        )

    def _is_dry(self, dry_run: bool | None) -> bool:
        return self.dry_run if dry_run is None else dry_run


def _path(aimed: Target) -> str:
    return aimed.resource.path(aimed.namespace, aimed.name)


def _object(body: bytes) -> dict[str, Any]:
    return msgspec.json.decode(body, type=dict[str, Any])
