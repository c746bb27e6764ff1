"""Audit Events: what was done to an object, by whom and why, where ``kubectl describe`` shows it.

They are also the memory of cooldowns and budgets over restarts and replicas: an action is written down before it is
carried out, so none is forgotten.
"""

from __future__ import annotations

import logging
import secrets
import socket
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from headrace.kubernetes.connection import Connection
from headrace.kubernetes.guard import Action
from headrace.kubernetes.status import ApiError
from headrace.kubernetes.target import Target

__all__ = ["REPAIR", "Audits"]

_log = logging.getLogger("headrace.kubernetes")

#: The reason of the Events that count as actions.
REPAIR: Final = "Repair"
#: On our own Events: which object an action counts for.
_KEY: Final = "headrace.dev/object"
_MICRO: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    creation_timestamp: datetime
    annotations: dict[str, str] = {}


class _Event(msgspec.Struct, frozen=True):
    metadata: _Metadata


class _Events(msgspec.Struct, frozen=True):
    items: list[_Event] = []


class Audits:
    """The Events of one component."""

    def __init__(self, component: str) -> None:
        self._reporter = f"headrace/{component}"

    async def write(
        self,
        connection: Connection,
        about: Target,
        *,
        reason: str,
        message: str,
        action: str = "",
        type: str = "Normal",
        name: str = "",
    ) -> dict[str, Any]:
        """Write an Event about an object; the Event. Raises `ApiError`, `ConnectionFailed`."""
        namespace = about.namespace or "default"
        known = {"namespace": about.namespace, "uid": about.uid, "resourceVersion": about.version}
        involved = {"kind": about.resource.kind, "apiVersion": about.resource.api_version, "name": about.name}
        involved.update({field: value for field, value in known.items() if value})
        metadata = {
            "name": name or f"{about.name[:200]}.{secrets.token_hex(8)}",
            "namespace": namespace,
            "annotations": {_KEY: about.title},
        }
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": metadata,
            "involvedObject": involved,
            "reason": reason,
            "message": message[:1024],
            "type": type,
            "eventTime": datetime.now(UTC).strftime(_MICRO),
            "reportingComponent": self._reporter,
            "reportingInstance": socket.gethostname()[:128],
            "action": action or reason,
        }
        path = f"/api/v1/namespaces/{namespace}/events"
        answer = await connection.client.request("POST", path, body=msgspec.json.encode(body))
        return msgspec.json.decode(answer, type=dict[str, Any])

    async def recall(self, connection: Connection) -> list[Action]:
        """The actions that the cluster remembers. Where we may not list Events: none, and a warning."""
        query = [("fieldSelector", f"reason={REPAIR},reportingComponent={self._reporter}")]
        try:
            body = await connection.client.request("GET", "/api/v1/events", query=query)
        except ApiError as error:
            if error.code != 403:
                raise
            _log.warning("earlier repairs cannot be counted; grant list on events: %s", error)
            return []
        events = msgspec.json.decode(body, type=_Events).items
        return [
            Action(
                event.metadata.name,
                event.metadata.annotations.get(_KEY, ""),
                event.metadata.creation_timestamp.timestamp(),
            )
            for event in events
        ]
