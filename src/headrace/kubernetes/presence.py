"""Whether an object that disappeared from a selection still exists: the watch says DELETED in both cases."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from headrace.errors import HeadraceError
from headrace.kubernetes.client import Client
from headrace.kubernetes.resources import Resource
from headrace.kubernetes.status import ApiError

__all__ = ["still_exists"]

#: Delays before the second and third attempt, in seconds.
_AGAIN: Final = (0.2, 1.0)
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class _Metadata(msgspec.Struct, frozen=True):
    uid: str


class _Named(msgspec.Struct, frozen=True):
    metadata: _Metadata


async def still_exists(client: Client, resource: Resource, key: str, uid: str) -> bool:
    """Whether the object of that uid is there; where the server cannot say (no right to get it, an outage),
    ``False``."""
    namespace, _, name = key.rpartition("/")
    path = resource.path(namespace, name)
    for delay in (*_AGAIN, None):
        try:
            body = await client.request("GET", path, accept=_METADATA, timeout=10.0)
            return msgspec.json.decode(body, type=_Named).metadata.uid == uid
        except HeadraceError as error:
            # Asked again: an outage of moments must not turn a relabelled object into a deleted one.
            if isinstance(error, ApiError) and error.code < 500 and error.code != 429:
                return False
        if delay is not None:
            await asyncio.sleep(delay)
    return False
