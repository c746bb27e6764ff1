"""Which API a name means: ``pods``, ``deployments.apps``, ``crontabs.v1.stable.example.com``, ``deploy``, ``Pod``.

Answers come from the server's own discovery documents, so custom resources are found like built-in ones, as soon as
their definition is served. Source: kubernetes.io, "The Kubernetes API", discovery.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

import msgspec

from headrace.errors import HeadraceError
from headrace.kubernetes.client import Client
from headrace.kubernetes.status import ApiError

__all__ = ["Resource", "ResourceAbsent", "Resources", "escaped"]

_VERSION: Final = re.compile(r"v\d+((alpha|beta)\d+)?")


#: Names that need no escaping, as nearly all are.
_PLAIN: Final = re.compile(r"[a-zA-Z0-9.:_-]*")


class ResourceAbsent(HeadraceError):
    """The API server serves no such resource (yet): a definition (CRD) is missing, or the name is wrong."""


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of object at one version of its API."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def name(self) -> str:
        """``pods`` or ``deployments.apps``: the same over versions of the API."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def root(self) -> str:
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The path of a collection, an object or its subresource, escaped."""
        parts = [self.root]
        if namespace and self.namespaced:
            parts.append(f"namespaces/{escaped(namespace)}")
        parts.append(self.plural)
        if name:
            parts.append(escaped(name))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


def escaped(name: str) -> str:
    """A name as a part of a path."""
    return name if _PLAIN.fullmatch(name) else quote(name, safe=":")


class _ApiResource(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    kind: str
    singular_name: str = ""
    namespaced: bool = False
    short_names: list[str] | None = None
    verbs: list[str] | None = None


class _ResourceList(msgspec.Struct, frozen=True):
    resources: list[_ApiResource] | None = None


class _GroupVersion(msgspec.Struct, frozen=True):
    version: str


class _Group(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    versions: list[_GroupVersion] = []
    preferred_version: _GroupVersion | None = None

    def ordered(self) -> Iterator[str]:
        """Its versions, the preferred one first."""
        preferred = self.preferred_version.version if self.preferred_version else ""
        if preferred:
            yield preferred
        for version in self.versions:
            if version.version != preferred:
                yield version.version


class _GroupList(msgspec.Struct, frozen=True):
    groups: list[_Group] = []


class Resources:
    """What one API server serves, remembered once found."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._found: dict[str, Resource] = {}

    async def find(self, name: str, *, again: bool = False) -> Resource:
        """The resource of that name: plural, singular, kind or short name, then optionally version and group, with
        dots.

        Args:
            again: ask the server even if the answer is known: it no longer serves what it said.

        Raises:
            ResourceAbsent: it serves nothing of that name now.
            ApiError, ConnectionFailed: it could not be asked.
        """
        known = self._found.get(name)
        if known is not None and not again:
            return known
        self._found.pop(name, None)
        found = await self._search(name)
        if found is None:
            raise ResourceAbsent(
                f"{self._client.cluster.server} serves no resource {name!r}; if it is a custom resource, install its "
                "definition (kubectl get crd), else correct the name (kubectl api-resources)"
            )
        self._found[name] = found
        return found

    async def _search(self, name: str) -> Resource | None:
        plural, _, rest = name.partition(".")
        if rest:
            group = await self._group(rest)
            if group is not None:
                for version in group.ordered():
                    found = await self._in(rest, version, plural)
                    if found is not None:
                        return found
            version, _, rest = rest.partition(".")
            return await self._in(rest, version, plural) if _VERSION.fullmatch(version) else None
        found = await self._in("", "v1", plural)
        if found is not None:
            return found
        body = await self._get("/apis")
        groups = msgspec.json.decode(body or b"{}", type=_GroupList).groups
        for group in groups:
            for version in group.ordered():
                found = await self._in(group.name, version, plural)
                if found is not None:
                    return found
        return None

    async def _group(self, name: str) -> _Group | None:
        body = await self._get(f"/apis/{quote(name, safe='')}")
        return None if body is None else msgspec.json.decode(body, type=_Group)

    async def _in(self, group: str, version: str, wanted: str) -> Resource | None:
        body = await self._get(f"/apis/{quote(group, safe='')}/{version}" if group else f"/api/{version}")
        if body is None:
            return None
        lowered = wanted.lower()
        for entry in msgspec.json.decode(body, type=_ResourceList).resources or ():
            if "/" in entry.name:
                continue
            names = (entry.name, entry.singular_name, entry.kind.lower(), *(entry.short_names or ()))
            if lowered in names:
                return Resource(
                    group=group, version=version, plural=entry.name, kind=entry.kind, namespaced=entry.namespaced
                )
        return None

    async def _get(self, path: str) -> bytes | None:
        try:
            return await self._client.request("GET", path)
        except ApiError as error:
            if error.code == 404:
                return None
            raise
