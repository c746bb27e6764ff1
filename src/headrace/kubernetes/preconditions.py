"""Preconditions: an action reaches the object that was meant, in the state that was meant, or is refused with 409."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from headrace.errors import ConfigurationError
from headrace.kubernetes.target import Target

__all__ = ["PatchKind", "delete_options", "with_preconditions"]

PatchKind = Literal["merge", "apply", "json", "strategic"]


def delete_options(aimed: Target, grace_seconds: int | None, dry: bool) -> dict[str, Any]:
    """DeleteOptions for the object that is meant and no other."""
    preconditions = _wanted(aimed)
    options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
    if preconditions:
        options["preconditions"] = preconditions
    if dry:
        # Where a body is sent, the server does not look at the query's dryRun.
        options["dryRun"] = ["All"]
    if grace_seconds is not None:
        options["gracePeriodSeconds"] = grace_seconds
    return options


def with_preconditions(patch: Any, kind: PatchKind, aimed: Target) -> Any:
    """uid and version as part of the patch: the server compares them, and answers 409 where they differ."""
    wanted = _wanted(aimed)
    if kind == "json":
        if isinstance(patch, Mapping):
            raise ConfigurationError("Cluster.patch: a json patch is a list of operations")
        tests = [{"op": "test", "path": f"/metadata/{field}", "value": value} for field, value in wanted.items()]
        return [*tests, *patch]
    if not isinstance(patch, Mapping):
        raise ConfigurationError(f"Cluster.patch: a {kind} patch is a mapping")
    merged = {**patch, "metadata": {**(patch.get("metadata") or {}), **wanted}}
    if kind == "apply":
        merged = {"apiVersion": aimed.resource.api_version, "kind": aimed.resource.kind, **merged}
        merged["metadata"] = {"name": aimed.name, **merged["metadata"]}
    elif not merged["metadata"]:
        del merged["metadata"]
    return merged


def _wanted(aimed: Target) -> dict[str, str]:
    known = {"uid": aimed.uid, "resourceVersion": aimed.version}
    return {field: value for field, value in known.items() if value}
