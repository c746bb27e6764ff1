"""The least RBAC that an app needs, from its declared watches and clusters: as words, as questions, as manifests.

The same rules answer three questions: what ``headrace check`` says, what it asks the API server for (whether the
credentials have them), and what ``headrace manifest --rbac`` grants.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace.errors import ConnectionFailed

if TYPE_CHECKING:
    from headrace.compilation import Compiled
    from headrace.kubernetes.access import Rule
    from headrace.kubernetes.cluster import Cluster
    from headrace.kubernetes.connection import Connection
    from headrace.kubernetes.resources import Resource
    from headrace.kubernetes.watch import Watch
    from headrace.settings import Settings

__all__ = ["Finding", "Need", "documents", "inspect", "needs", "sentence", "unlimited"]


class Need(NamedTuple):
    """A rule, and who needs it: a handler, or a `Cluster` by its component."""

    whom: str
    rule: Rule


class Finding(NamedTuple):
    """``level``: info, warning or error; ``text`` in words."""

    level: str
    text: str


def needs(compiled: Sequence[Compiled], *, namespace: str = "default") -> list[Need]:
    """What the app needs, without asking a cluster; none where it watches nothing.

    Args:
        namespace: where the app runs: its leases live there unless they say otherwise.

    Raises:
        ConfigurationError: a resource that only a cluster could say more about: a custom one without its group.
    """
    watches = _watches(compiled)
    if not watches and not _clusters():
        return []
    from headrace.kubernetes.builtin import resource_named

    names = [watch.resource for _, watch in watches]
    names += [name for cluster in _clusters() for name in cluster.allow or ()]
    return _needs(watches, {name: resource_named(name) for name in names}, namespace)


def unlimited(compiled: Sequence[Compiled]) -> list[str]:
    """The components of clusters without ``allow=``: what they need cannot be derived."""
    return [cluster.component for cluster in _clusters() if cluster.allow is None]


async def inspect(compiled: Sequence[Compiled], settings: Settings) -> list[Finding]:
    """Ask the API server whether the credentials have what the app needs (SelfSubjectAccessReview). Nothing is changed."""
    watches = _watches(compiled)
    clusters = _clusters()
    if not watches and not clusters:
        return []
    from headrace.errors import HeadraceError
    from headrace.kubernetes.connection import Connection
    from headrace.kubernetes.kubeconfig import resolve

    config = settings.transport.get("kubernetes_kubeconfig")
    context = settings.transport.get("kubernetes_context")
    places: dict[Any, tuple[list[tuple[str, Watch]], list[Cluster]]] = {}
    for name, watch in watches:
        place = resolve(watch.kubeconfig or config, watch.context or context)
        places.setdefault(place, ([], []))[0].append((name, watch))
    for cluster in clusters:
        places.setdefault(resolve(cluster.kubeconfig, cluster.context), ([], []))[1].append(cluster)
    findings: list[Finding] = []
    for place, (its_watches, its_clusters) in places.items():
        connection = Connection.acquire(place)
        try:
            await connection.reach(settings["ready_within"])
            findings += await _ask(connection, its_watches, its_clusters)
        except ConnectionFailed:
            raise
        except HeadraceError as error:
            findings.append(Finding("error", f"Kubernetes {place.server}: {error}"))
        finally:
            await connection.release()
    return findings


def sentence(rule: Rule) -> str:
    """A rule in words."""
    what = f"{rule.resource}.{rule.group}" if rule.group else rule.resource
    if rule.names:
        what += f" {', '.join(rule.names)}"
    where = "in all namespaces" if rule.namespace is None else f"in namespace {rule.namespace}"
    if rule.names and rule.namespace is None:
        where = "in the cluster"
    return f"{', '.join(rule.verbs)} on {what} {where}"


def documents(app: str, rules: Iterable[Rule], *, namespace: str) -> list[dict[str, Any]]:
    """Manifests that grant the rules to a ServiceAccount named after the app: one ClusterRole, and a Role in each
    namespace that is named. The same rules always give the same documents."""
    name = app.lower().replace("_", "-")
    account = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    made: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}
    ]
    by_scope: dict[str, list[Rule]] = {}
    for rule in _merged(rules):
        by_scope.setdefault(rule.namespace or "", []).append(rule)
    group = "rbac.authorization.k8s.io"
    for scope in sorted(by_scope):
        kind = "Role" if scope else "ClusterRole"
        metadata = {"name": name, "namespace": scope} if scope else {"name": name}
        granted = [_granted(rule) for rule in by_scope[scope]]
        made.append({"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata, "rules": granted})
        made.append(
            {
                "apiVersion": f"{group}/v1",
                "kind": f"{kind}Binding",
                "metadata": dict(metadata),
                "roleRef": {"apiGroup": group, "kind": kind, "name": name},
                "subjects": [dict(account)],
            }
        )
    return made


async def _ask(
    connection: Connection, watches: Sequence[tuple[str, Watch]], clusters: Sequence[Cluster]
) -> list[Finding]:
    from headrace.kubernetes.access import missing, scopes
    from headrace.kubernetes.resources import ResourceAbsent

    findings: list[Finding] = []
    resources: dict[str, Resource] = {}
    for name in dict.fromkeys(
        [*(watch.resource for _, watch in watches), *(name for cluster in clusters for name in cluster.allow or ())]
    ):
        try:
            resources[name] = await connection.resources.find(name)
        except ResourceAbsent as error:
            findings.append(Finding("warning", str(error)))
    known = [(name, watch) for name, watch in watches if watch.resource in resources]
    sure = [cluster for cluster in clusters if all(name in resources for name in cluster.allow or ())]
    own = connection.cluster.namespace or "default"
    wanted = _needs(known, resources, own, sure)
    lacking = set(await missing(connection.client, dict.fromkeys(need.rule for need in wanted)))
    narrowed: dict[str, str] = {}
    for name, watch in known:
        resource = resources[watch.resource]
        if watch.namespaces is None and resource.namespaced:
            found = await scopes(connection.client, resource, None)
            if found and found != [""]:
                narrowed[f"handler {name}"] = ", ".join(found)
    for need in wanted:
        absent = tuple(verb for verb in need.rule.verbs if (need.rule, verb) in lacking)
        text = f"{need.whom} needs {sentence(need.rule)}"
        if not absent:
            findings.append(Finding("info", f"{text}: granted"))
        elif need.rule.names == ("kube-system",):
            findings.append(
                Finding(
                    "warning",
                    f"{text}: missing; the cluster is then recognized by its address {connection.cluster.server}",
                )
            )
        elif need.whom in narrowed and need.rule.namespace is None and "watch" in need.rule.verbs:
            limits = narrowed[need.whom]
            findings.append(
                Finding("warning", f"{text}: {', '.join(absent)} missing; what is allowed is watched: {limits}")
            )
        else:
            findings.append(
                Finding("error", f"{text}: {', '.join(absent)} missing; headrace manifest --rbac writes what grants it")
            )
    return findings


def _watches(compiled: Sequence[Compiled]) -> list[tuple[str, Watch]]:
    return [
        (one.handler.name, one.declaration)
        for one in compiled
        if type(one.declaration).__module__ == "headrace.kubernetes.watch"
    ]


def _clusters() -> list[Cluster]:
    # Without its module nobody can have made one; importing it would load the HTTP client for nothing.
    if "headrace.kubernetes.cluster" not in sys.modules:
        return []
    from headrace.kubernetes.cluster import declared_clusters

    return sorted(declared_clusters(), key=lambda cluster: cluster.component)


def _needs(
    watches: Sequence[tuple[str, Watch]],
    resources: Mapping[str, Resource],
    namespace: str,
    clusters: Sequence[Cluster] | None = None,
) -> list[Need]:
    found: list[Need] = []
    for name, watch in watches:
        found += [Need(f"handler {name}", rule) for rule in watch.rules(resources[watch.resource], namespace)]
    for cluster in _clusters() if clusters is None else clusters:
        found += [Need(f"Cluster {cluster.component}", rule) for rule in cluster.rules(resources, namespace)]
    return list(dict.fromkeys(found))


def _merged(rules: Iterable[Rule]) -> list[Rule]:
    """Rules on the same objects as one, in a fixed order."""
    from headrace.kubernetes.access import Rule

    verbs: dict[tuple[str, str, str, tuple[str, ...]], set[str]] = {}
    for rule in rules:
        verbs.setdefault((rule.namespace or "", rule.group, rule.resource, rule.names), set()).update(rule.verbs)
    return [
        Rule(group=group, resource=resource, verbs=tuple(sorted(found)), namespace=namespace or None, names=names)
        for (namespace, group, resource, names), found in sorted(verbs.items())
    ]


def _granted(rule: Rule) -> dict[str, Any]:
    granted: dict[str, Any] = {"apiGroups": [rule.group], "resources": [rule.resource]}
    if rule.names:
        granted["resourceNames"] = list(rule.names)
    granted["verbs"] = list(rule.verbs)
    return granted
