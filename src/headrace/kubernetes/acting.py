"""How an action is carried out: within what the app declared, for the leader alone, within its limits, and written down
before it goes to the server. What the server answers is remembered.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from headrace.errors import ConfigurationError
from headrace.kubernetes.audit import REPAIR, Audits
from headrace.kubernetes.connection import Connection
from headrace.kubernetes.guard import Action, Guard
from headrace.kubernetes.lease import Elector, Lease
from headrace.kubernetes.preconditions import conflict
from headrace.kubernetes.resources import Resource
from headrace.kubernetes.status import ApiError
from headrace.kubernetes.target import Target

__all__ = ["VERBS", "Actions"]

_log = logging.getLogger("headrace.kubernetes")

#: What each action needs: verb and subresource.
VERBS: Final = {
    "get": ("get", ""),
    "list": ("list", ""),
    "patch": ("patch", ""),
    "delete": ("delete", ""),
    "evict": ("create", "eviction"),
    "restart": ("patch", ""),
    "scale": ("patch", "scale"),
}


class Actions:
    """What one `Cluster` may do, and what it has done. Arguments as there."""

    def __init__(
        self,
        *,
        allow: Mapping[str, Sequence[str]] | None,
        lease: Lease | None,
        guard: Guard,
        audits: Audits | None,
        component: str,
    ) -> None:
        self.guard = guard
        self._allow = allow
        self._lease = lease
        self._audits = audits
        self._component = component
        self._recalled: int | None = None
        self._competing: Elector | None = None

    async def carry_out(
        self,
        connection: Connection,
        action: str,
        aimed: Target,
        method: str,
        path: str,
        body: Any,
        *,
        dry: bool,
        reason: str,
        query: Sequence[tuple[str, str]] = (),
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Send it, if nothing forbids that; the server's answer.

        Raises `ConfigurationError`, `LeaseLost`, `RepairRefused`, `ApiError`, `ConnectionFailed`.
        """
        self.check_allowed(aimed.resource, action)
        await self.lead(connection)
        if dry:
            query = [*query, ("dryRun", "All")]
        else:
            await self._begin(connection, action, aimed, reason)
            # The audit took its time: the lease may have ended meanwhile.
            await self.lead(connection)
        try:
            sent = await connection.client.request(
                method, path, query=query, body=msgspec.json.encode(body), content_type=content_type
            )
        except ApiError as error:
            raise conflict(error) from None
        answer = msgspec.json.decode(sent, type=dict[str, Any])
        metadata = answer.get("metadata") or {}
        if not dry and metadata.get("uid") and metadata.get("resourceVersion"):
            connection.writes.record(aimed.resource.name, aimed.key, metadata["uid"], metadata["resourceVersion"])
        _log.info("%s %s%s: %s", action, aimed.title, " (dry run)" if dry else "", reason or "no reason given")
        return answer

    async def lead(self, connection: Connection) -> None:
        """Compete for the lease from now on, unless a watch does, and see that it is ours. Raises `LeaseLost`."""
        if self._lease is None:
            return
        elector = self._lease.elector(connection)
        if not elector.competes:
            elector.acquire()
            self._competing = elector
            connection.at_end(self.rest)
        if not elector.leads:
            await elector.looked()
        elector.check()

    async def rest(self) -> None:
        """Compete no more; the lease is given back."""
        elector, self._competing = self._competing, None
        if elector is not None:
            await elector.release()

    def check_allowed(self, resource: Resource, action: str) -> None:
        """Raises `ConfigurationError` for what the app did not say that it does."""
        if self._allow is None:
            return
        for name in (resource.name, resource.plural, resource.kind, resource.kind.lower()):
            if action in self._allow.get(name, ()):
                return
        raise ConfigurationError(
            f"Cluster: {action} of {resource.name} is not among what this app does; add it to allow= and to its RBAC"
        )

    async def _begin(self, connection: Connection, action: str, aimed: Target, reason: str) -> None:
        """Count the action and write it down, before it is carried out: a crash in between never hides one."""
        await self._recall(connection)
        key = aimed.title
        self.guard.admit(key, time.time())
        name = f"{aimed.name[:200]}.{secrets.token_hex(8)}"
        self.guard.remember([Action(name, key, time.time())])
        if self._audits is not None:
            message = f"{action} by {self._component}: {reason or 'no reason given'}"
            await self._audits.write(connection, aimed, reason=REPAIR, action=action, message=message, name=name)

    async def _recall(self, connection: Connection) -> None:
        """Count what earlier processes and other replicas did; once a process, and again in each term as the leader."""
        term = 0 if self._lease is None else self._lease.elector(connection).term
        if not self.guard.horizon or self._audits is None or self._recalled == term:
            return
        self.guard.remember(await self._audits.recall(connection))
        self._recalled = term
