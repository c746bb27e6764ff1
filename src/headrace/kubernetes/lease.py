"""Leader election by a Lease object: of several replicas one acts, and the others are ready to.

The rules are client-go's (tools/leaderelection). Whether another's lease has expired is judged by our own monotonic
clock since we last saw it change, never by comparing times of two machines. A leader that could not renew within its
deadline stops at once, before anybody else may begin; one that was stopped (SIGSTOP, a frozen machine) finds its
lease gone before its next action. A lease is no fencing token: a request already under way may still arrive after it
ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec

from headrace.errors import ConfigurationError, ConnectionFailed, HeadraceError
from headrace.kubernetes.access import Rule
from headrace.kubernetes.client import Client
from headrace.kubernetes.connection import Connection
from headrace.kubernetes.status import ApiError

__all__ = ["Elector", "Lease", "LeaseLost"]

_log = logging.getLogger("headrace.kubernetes")


class LeaseLost(HeadraceError):
    """This replica does not hold the lease (any more): it must not act. The replica that holds it will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    duration: float
    renew_within: float
    retry_every: float


class Lease:
    """What replicas compete for: give the same one to every `Watch` and `Cluster` of an app that acts alone.

    Args:
        name: of the Lease object (coordination.k8s.io/v1).
        namespace: where it lives; default: the pod's, else the context's, else ``default``.
        duration: seconds without a renewal after which another replica takes over.
        renew_within: seconds in which the leader must renew, or it stops; shorter than ``duration``.
        retry_every: seconds between renewals, and between looks of those who wait.

    Raises:
        ConfigurationError: times that would let two replicas act.
    """

    def __init__(
        self,
        name: str,
        *,
        namespace: str | None = None,
        duration: float = 15.0,
        renew_within: float = 10.0,
        retry_every: float = 2.0,
    ) -> None:
        if not 0 < retry_every < renew_within < duration or duration < 1:
            raise ConfigurationError(
                f"Lease({name!r}): retry_every < renew_within < duration, and duration of at least 1 s; got "
                f"{retry_every:g}, {renew_within:g}, {duration:g}"
            )
        self.name = name
        self.namespace = namespace
        self.times = _Times(duration=duration, renew_within=renew_within, retry_every=retry_every)
        self._electors: WeakKeyDictionary[Connection, Elector] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"Lease({self.name!r})"

    def rules(self, own_namespace: str) -> list[Rule]:
        """The RBAC that competing needs; creating cannot be limited to one name."""
        namespace = self.namespace or own_namespace
        group = "coordination.k8s.io"
        return [
            Rule(group=group, resource="leases", verbs=("create",), namespace=namespace),
            Rule(group=group, resource="leases", verbs=("get", "update"), namespace=namespace, names=(self.name,)),
        ]

    def elector(self, connection: Connection) -> Elector:
        """The one elector of this process for this lease at a cluster."""
        elector = self._electors.get(connection)
        if elector is None:
            namespace = self.namespace or connection.cluster.namespace or "default"
            elector = self._electors[connection] = Elector(connection.client, self.name, namespace, self.times)
        return elector


class _Spec(msgspec.Struct, rename="camel", omit_defaults=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Metadata(msgspec.Struct, rename="camel", omit_defaults=True):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[Any] | None = None
    finalizers: list[str] | None = None


class _Lease(msgspec.Struct, rename="camel", kw_only=True):
    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)


_decoder: Final = msgspec.json.Decoder(_Lease)


class Elector:
    """Competes for one lease while it has users; `acquire` and `release` count them.

    Attributes:
        identity: this process, unlike any other start of it.
        holder: who held the lease when we last looked.
        term: how often this process has become the leader.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        namespace: str,
        times: _Times,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = f"{socket.gethostname()}_{secrets.token_hex(8)}"
        self.holder = ""
        self.term = 0
        self.lost: list[Callable[[str], None]] = []
        self._client = client
        self._name = name
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._times = times
        self._monotonic = monotonic
        self._until = float("-inf")
        self._leading = asyncio.Event()
        self._record: _Lease | None = None
        self._observed = ""
        self._observed_at = 0.0
        self._looked = asyncio.Event()
        self._users = 0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def leads(self) -> bool:
        """Whether this process may act now, by its own clock."""
        return self._leading.is_set() and self._monotonic() < self._until

    def check(self) -> None:
        """Raises `LeaseLost` where this process may not act now."""
        if not self.leads:
            held = f"; {self.holder} holds it" if self.holder and self.holder != self.identity else ""
            raise LeaseLost(f"this replica does not hold the lease {self._name!r}{held}")

    @property
    def competes(self) -> bool:
        """Somebody of this process competes for it."""
        return self._task is not None and not self._task.done()

    def acquire(self) -> None:
        """Begin to compete."""
        self._users += 1
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._compete(), name=f"lease {self._name}")

    async def release(self) -> None:
        """Stop competing; the last user's release gives the lease back, so that another need not wait for its end."""
        self._users -= 1
        if self._users or self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def lead(self) -> None:
        """Wait until this process is the leader."""
        while not self._leading.is_set():  # won and lost again before we were woken is no win
            await self._leading.wait()

    async def looked(self) -> None:
        """Wait until an attempt was made since it began to compete, whatever became of it."""
        await self._looked.wait()

    async def _compete(self) -> None:
        try:
            await self._keep_trying()
        finally:
            # Released, or the program ends: whoever waits need not wait for the lease's end.
            self._looked.clear()
            if self._leading.is_set():
                self._lose("it was given back")
                with contextlib.suppress(HeadraceError):
                    await self._give_back()

    async def _keep_trying(self) -> None:
        while True:
            began = self._monotonic()
            try:
                held = await self._try(began)
            except HeadraceError as error:
                held = False
                if not isinstance(error, ApiError) or error.code != 409:
                    _log.warning("lease %s: %s", self._name, error)
            if held:
                self._win(began)
            elif self._leading.is_set() and self.holder != self.identity:
                self._lose(f"{self.holder or 'nobody'} holds it")
            self._looked.set()
            await asyncio.sleep(self._times.retry_every * (0.9 + 0.2 * random.random()))

    async def _try(self, now: float) -> bool:
        """One attempt to take or renew it; whether it is ours."""
        record = self._record
        if record is None or self.holder != self.identity:
            record = await self._read()
            if record is None:
                return await self._write(_Lease(metadata=_Metadata(name=self._name)), taken=True)
            self._observe(record, now)
            holder = record.spec.holder_identity or ""
            if holder and holder != self.identity:
                lasts = record.spec.lease_duration_seconds or self._times.duration
                if self._observed_at + lasts > self._monotonic():
                    return False
        try:
            return await self._write(record, taken=(record.spec.holder_identity or "") != self.identity)
        except ApiError as error:
            if error.code in (404, 409):
                # Somebody was faster, or removed it: look again before the next attempt.
                self._record = None
                current = await self._read()
                self.holder = ""
                if current is not None:
                    self._observe(current, self._monotonic())
            raise

    async def _read(self) -> _Lease | None:
        try:
            body = await self._client.request(
                "GET", f"{self._collection}/{self._name}", timeout=self._times.renew_within / 2
            )
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        return self._decode(body)

    async def _write(self, record: _Lease, *, taken: bool) -> bool:
        spec = record.spec
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        written = _Spec(
            holder_identity=self.identity,
            lease_duration_seconds=max(1, round(self._times.duration)),
            acquire_time=now if taken else spec.acquire_time,
            renew_time=now,
            lease_transitions=(spec.lease_transitions or 0) + (1 if taken and spec.holder_identity is not None else 0),
        )
        await self._put(msgspec.structs.replace(record, spec=written))
        return True

    async def _put(self, record: _Lease) -> None:
        exists = bool(record.metadata.resource_version)
        body = await self._client.request(
            "PUT" if exists else "POST",
            f"{self._collection}/{self._name}" if exists else self._collection,
            body=msgspec.json.encode(record),
            timeout=self._times.renew_within / 2,
        )
        self._observe(self._decode(body), self._monotonic())

    def _decode(self, body: bytes) -> _Lease:
        try:
            return _decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise ConnectionFailed(f"what was answered for the lease {self._name!r} is no Lease: {error}") from error

    async def _give_back(self) -> None:
        record = self._record
        if record is not None:
            spec = msgspec.structs.replace(record.spec, holder_identity="", lease_duration_seconds=1)
            await self._put(msgspec.structs.replace(record, spec=spec))

    def _observe(self, record: _Lease, now: float) -> None:
        """Its expiry counts from when we first saw this state of it."""
        self._record = record
        self.holder = record.spec.holder_identity or ""
        if record.metadata.resource_version != self._observed:
            self._observed = record.metadata.resource_version
            self._observed_at = now

    def _win(self, began: float) -> None:
        # From before the request: whoever judges our lease saw it renewed no earlier than this.
        self._until = began + self._times.renew_within
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        left = self._until - self._monotonic()
        if left <= 0:
            self._lose("its renewal took too long")
            return
        self._timer = loop.call_later(left, self._lose, "it could not be renewed in time")
        if not self._leading.is_set():
            _log.info("lease %s: this replica leads", self._name)
            self.term += 1
            self._leading.set()

    def _lose(self, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._until = float("-inf")
        if not self._leading.is_set():
            return
        self._leading.clear()
        _log.warning("lease %s: this replica no longer leads: %s", self._name, why)
        for told in list(self.lost):
            told(f"the lease {self._name!r} is lost: {why}")
