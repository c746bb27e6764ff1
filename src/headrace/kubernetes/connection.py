"""What the watches and actions of one process share of one cluster: client, discovery, informers, our own last writes.

One connection an event loop and cluster, counted by its users and closed by the last of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

import msgspec

from headrace.errors import ConnectionFailed
from headrace.kubernetes.client import Client
from headrace.kubernetes.index import Identity
from headrace.kubernetes.informer import Informer, Selection, Subscriber
from headrace.kubernetes.kubeconfig import ClusterConfig
from headrace.kubernetes.reflector import Timing
from headrace.kubernetes.resources import Resource, Resources
from headrace.kubernetes.status import ApiError
from headrace.kubernetes.writes import Writes

__all__ = ["Connection"]

_open: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[ClusterConfig, Connection]] = WeakKeyDictionary()


class _Metadata(msgspec.Struct, frozen=True):
    uid: str


class _Named(msgspec.Struct, frozen=True):
    metadata: _Metadata


class Connection:
    """One cluster as one user, in one event loop. Made by `acquire`, given back by `release`."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self.cluster = cluster
        self.client = Client(cluster)
        self.resources = Resources(self.client)
        self.writes = Writes()
        self.informers: dict[Selection, Informer] = {}
        self._ends: list[Callable[[], Awaitable[None]]] = []
        self._users = 0
        self._identity: Identity | None = None

    @classmethod
    def acquire(cls, cluster: ClusterConfig) -> Connection:
        """The connection of the running loop to a cluster; to be released."""
        connections = _open.setdefault(asyncio.get_running_loop(), {})
        connection = connections.get(cluster)
        if connection is None:
            connection = connections[cluster] = cls(cluster)
        connection._users += 1
        return connection

    @staticmethod
    def shared(cluster: ClusterConfig) -> Connection | None:
        """The connection that watches of the running loop hold open, if any; not counted, not to be released."""
        return _open.get(asyncio.get_running_loop(), {}).get(cluster)

    def at_end(self, end: Callable[[], Awaitable[None]]) -> None:
        """Have ``end`` called before the connection is closed."""
        self._ends.append(end)

    async def release(self) -> None:
        """Give it back; the last user's release closes it."""
        self._users -= 1
        if self._users:
            return
        _open.get(asyncio.get_running_loop(), {}).pop(self.cluster, None)
        for end in self._ends:
            await end()
        for informer in list(self.informers.values()):
            await informer.close()
        self.informers.clear()
        await self.client.close()

    async def reach(self, within: float) -> None:
        """Wait until the server answers and knows us; ``within`` in seconds.

        Raises:
            ConnectionFailed: it did not answer in time, or it refused the credentials.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        pause = 0.1
        while True:
            try:
                await self.identity()
            except ApiError as error:
                if error.code == 401:
                    raise ConnectionFailed(
                        f"{self.cluster.server} refused the credentials of {self.cluster.origin}: {error.status.message}; "
                        "log in again or renew the token"
                    ) from error
                trouble: Exception = error
            except ConnectionFailed as error:
                trouble = error
            else:
                return
            if loop.time() + pause > deadline:
                raise ConnectionFailed(
                    f"the Kubernetes API server {self.cluster.server} did not answer within {within:g} s: {trouble}"
                ) from trouble
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def identity(self) -> Identity:
        """Which cluster this is: the uid of kube-system where we may read it, and the address. Raises `ApiError`,
        `ConnectionFailed`."""
        if self._identity is None:
            uid = ""
            try:
                body = await self.client.request("GET", "/api/v1/namespaces/kube-system", timeout=10.0)
                uid = msgspec.json.decode(body, type=_Named).metadata.uid
            except ApiError as error:
                # 404: a cluster in its first second, before its controllers made the namespace.
                if error.code not in (403, 404):
                    raise
            self._identity = Identity(uid, self.cluster.server)
        return self._identity

    def informer(self, selection: Selection, resource: Resource, timing: Timing | None = None) -> Informer:
        """The informer of a selection, to be joined; one for all that want the same."""
        informer = self.informers.get(selection)
        if informer is None:
            informer = Informer(self.client, self.resources, self.writes, selection, resource, timing)
            self.informers[selection] = informer
        return informer

    async def unwatch(self, informer: Informer, subscriber: Subscriber) -> None:
        """Leave an informer; the last subscriber's leaving ends it."""
        if informer.leave(subscriber) and self.informers.get(informer.selection) is informer:
            del self.informers[informer.selection]
            await informer.close()
