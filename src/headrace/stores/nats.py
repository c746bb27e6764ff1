"""Checkpoints and suspects in a NATS key-value bucket, for apps whose broker is NATS and that have no SQL store.

Keys in the bucket `headrace_<app>`: `checkpoint.<scope>.<name>`, `process.<process>`, `start.<handler>.<identity>`.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from headrace.nats.bucket import Bucket, text_of, token

if TYPE_CHECKING:
    from headrace.engine.ledger import Identity
    from headrace.nats.broker import NatsBroker

__all__ = ["NatsCheckpoints", "NatsSuspects"]

_encode = msgspec.json.Encoder().encode
#: How often a start is recorded again when another process has just recorded it.
_SWAPS: Final = 20


class NatsCheckpoints:
    """How far sources without acknowledgements have been handled."""

    def __init__(self, broker: NatsBroker, app: str) -> None:
        self._bucket = broker.bucket if app == broker.app else Bucket(broker, app)

    async def load(self, scope: str) -> Mapping[str, bytes]:
        """Everything saved under the scope."""
        found = await self._bucket.under(f"checkpoint.{token(scope)}")
        return {text_of(name): value for name, value in found.items()}

    async def save(self, scope: str, changes: Mapping[str, bytes | None]) -> None:
        """Write each (``None`` removes), atomically on servers from 2.12 on up to 1,000 at a time."""
        start = f"checkpoint.{token(scope)}."
        await self._bucket.write({start + token(name): value for name, value in changes.items()})


class _Start(msgspec.Struct, array_like=True):
    """Starts of one event by one handler: how many, and which."""

    count: int
    handler: str
    source: str
    id: str


_decode_start = msgspec.json.Decoder(_Start).decode


class NatsSuspects:
    """Starts of deliveries that a process may have died of.

    An earlier process of the same place ended uncleanly if its record is still there: a place is a host name and a slot that
    the worker's supervisor gives (``HEADRACE_SLOT``), so that replicas beside us are not taken for the dead.
    """

    def __init__(self, broker: NatsBroker, app: str) -> None:
        self._bucket = broker.bucket if app == broker.app else Bucket(broker, app)

    @staticmethod
    def _place() -> str:
        return token(f"{socket.gethostname()}/{os.environ.get('HEADRACE_SLOT', '0')}")

    async def begin(self, app: str, process: str) -> bool:
        """Record that this process runs the app. ``True`` if an earlier one of the same place ended uncleanly."""
        key = f"process.{self._place()}"
        before = await self._bucket.get(key)
        await self._bucket.write({key: process.encode()})
        return before is not None and before[0] != process.encode()

    async def recorded(self, handler: str, identities: Sequence[Identity]) -> Sequence[int]:
        """How many starts of each are recorded."""
        found = [await self._bucket.latest(_start_key(handler, identity)) for identity in identities]
        return [0 if value is None else _decode_start(value).count for value, _ in found]

    async def started(self, handler: str, identities: Sequence[Identity]) -> Sequence[int]:
        """Record one more start of each, durably before this returns; how many starts are recorded now."""
        return [await self._one_more(handler, identity) for identity in identities]

    async def _one_more(self, handler: str, identity: Identity) -> int:
        key = _start_key(handler, identity)
        for _ in range(_SWAPS):
            found = await self._bucket.latest(key)
            count = _decode_start(found[0]).count if found[0] is not None else 0
            record = _Start(count + 1, handler, identity[0], identity[1])
            if await self._bucket.swap(key, _encode(record), found[1]):
                return count + 1
        # Others record starts of the same event at the same time: that is enough to be careful with it.
        return count + 1

    async def finished(self, handler: str, identities: Sequence[Identity]) -> None:
        """Forget these: they ended without taking the process with them."""
        await self._bucket.write({_start_key(handler, identity): None for identity in identities})

    async def end(self, app: str, process: str) -> None:
        """Record a clean end."""
        key = f"process.{self._place()}"
        found = await self._bucket.get(key)
        if found is not None and found[0] == process.encode():
            await self._bucket.write({key: None})


def _start_key(handler: str, identity: Identity) -> str:
    name = "\0".join(identity).encode("utf-8", "surrogatepass")
    return f"start.{token(handler)}.{hashlib.blake2b(name, digest_size=16).hexdigest()}"
