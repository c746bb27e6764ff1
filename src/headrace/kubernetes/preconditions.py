"""Preconditions: an action reaches the object that was meant, in the state that was meant, or is refused with 409."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from headrace.errors import ConfigurationError
from headrace.kubernetes.status import ApiError
from headrace.kubernetes.target import Target

__all__ = ["PatchKind", "conflict", "delete_options", "with_preconditions"]

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
        # Not "test": a test that fails is answered with 422 and no word of why.
        claims = [{"op": "add", "path": f"/metadata/{field}", "value": value} for field, value in wanted.items()]
        return [*claims, *patch]
    if not isinstance(patch, Mapping):
        raise ConfigurationError(f"Cluster.patch: a {kind} patch is a mapping")
    merged = {**patch, "metadata": {**(patch.get("metadata") or {}), **wanted}}
    if kind == "apply":
        merged = {"apiVersion": aimed.resource.api_version, "kind": aimed.resource.kind, **merged}
        merged["metadata"] = {"name": aimed.name, **merged["metadata"]}
    elif not merged["metadata"]:
        del merged["metadata"]
    return merged


def conflict(error: ApiError) -> ApiError:
    """A refusal, as 409 where the object has another uid: of a patch the server says only that a uid cannot be changed
    (422)."""
    if error.code != 422 or not any(cause.field == "metadata.uid" for cause in error.status.causes):
        return error
    message = "the object that was meant is gone, and another one has its name"
    status = msgspec.structs.replace(error.status, code=409, reason="Conflict", message=message)
    return ApiError(status, error.what, retry_after=error.retry_after)


def _wanted(aimed: Target) -> dict[str, str]:
    known = {"uid": aimed.uid, "resourceVersion": aimed.version}
    return {field: value for field, value in known.items() if value}
