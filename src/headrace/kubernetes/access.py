"""What RBAC allows us: which scope a watch can have, and which of the verbs that an app needs are missing.

The API server is asked (SelfSubjectAccessReview), not the role objects: whatever authorizer a cluster uses, this is its
answer for these credentials, now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from headrace.kubernetes.client import Client
from headrace.kubernetes.resources import Resource
from headrace.kubernetes.status import ApiError

__all__ = ["Rule", "allowed", "missing", "scopes"]

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_AT_ONCE = 16


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Verbs on one resource. ``resource`` is the plural, with ``/subresource`` where one is meant. ``namespace``
    ``None``: all of them (a ClusterRole). ``names``: limited to these objects."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    namespace: str | None = None
    names: tuple[str, ...] = ()


class _ReviewStatus(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Review(msgspec.Struct, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


async def allowed(client: Client, rule: Rule, verb: str) -> bool:
    """Whether the credentials may use ``verb`` as the rule says. Raises `ApiError`, `ConnectionFailed`."""
    plural, _, subresource = rule.resource.partition("/")
    attributes: dict[str, str] = {"verb": verb, "group": rule.group, "resource": plural}
    if subresource:
        attributes["subresource"] = subresource
    if rule.namespace:
        attributes["namespace"] = rule.namespace
    if rule.names:
        attributes["name"] = rule.names[0]
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await client.request("POST", _REVIEWS, body=msgspec.json.encode(review))
    return msgspec.json.decode(answer, type=_Review).status.allowed


async def missing(client: Client, rules: Iterable[Rule]) -> list[tuple[Rule, str]]:
    """The (rule, verb) pairs that the credentials lack."""
    wanted = [(rule, verb) for rule in rules for verb in rule.verbs]
    limit = asyncio.Semaphore(_AT_ONCE)

    async def ask(rule: Rule, verb: str) -> bool:
        async with limit:
            return await allowed(client, rule, verb)

    answers = await asyncio.gather(*(ask(rule, verb) for rule, verb in wanted))
    return [pair for pair, granted in zip(wanted, answers, strict=True) if not granted]


class _Metadata(msgspec.Struct, frozen=True):
    name: str


class _Named(msgspec.Struct, frozen=True):
    metadata: _Metadata


class _NamespaceList(msgspec.Struct, frozen=True):
    items: list[_Named] = []


async def scopes(client: Client, resource: Resource, namespaces: Sequence[str] | None) -> list[str]:
    """Where to watch: ``[""]`` for the whole cluster, else namespaces; empty where nothing is allowed.

    Args:
        namespaces: what the user asked for; ``None``: everything that RBAC allows.

    Raises `ApiError`, `ConnectionFailed` where the server cannot be asked.
    """
    if not resource.namespaced:
        return [""]
    if namespaces is not None:
        return list(namespaces)
    whole = Rule(group=resource.group, resource=resource.plural, verbs=("list", "watch"))
    if not await missing(client, [whole]):
        return [""]
    own = client.cluster.namespace or "default"
    try:
        body = await client.request("GET", "/api/v1/namespaces")
        candidates = [found.metadata.name for found in msgspec.json.decode(body, type=_NamespaceList).items]
    except ApiError as error:
        if error.code != 403:
            raise
        candidates = [own]
    rules = [
        Rule(group=resource.group, resource=resource.plural, verbs=("list", "watch"), namespace=name)
        for name in candidates
    ]
    refused = {rule.namespace for rule, _ in await missing(client, rules)}
    return [name for name in candidates if name not in refused]
