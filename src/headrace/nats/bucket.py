"""Small records of an app in a key-value bucket, `headrace_<app>`: suspects, checkpoints, floors of consumers.

A bucket is a stream with one subject a key, as NATS clients lay it out (ADR-8), so that `nats kv` reads it.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from headrace.errors import StoreUnavailable
from headrace.nats.api import NO_MESSAGE, STREAM_NOT_FOUND, WRONG_LAST_SEQUENCE, ApiError, nanoseconds
from headrace.nats.publisher import Confirmed, Missing, Refused, header_block
from headrace.nats.reading import read_stream
from headrace.nats.requests import Silent
from headrace.nats.streams import own_stream

if TYPE_CHECKING:
    from headrace.nats.broker import NatsBroker

__all__ = ["Bucket"]

_DELETED: Final = b"KV-Operation:"
_SAFE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
#: Messages of one atomic batch (the server's limit, ADR-50).
_ATOMIC_LIMIT: Final = 1000
_REMOVAL_STAYS: Final = "3600s"


class Bucket:
    """One app's bucket. Keys are tokens joined by dots, see `token`. Trouble raises `StoreUnavailable`."""

    def __init__(self, broker: NatsBroker, app: str) -> None:
        self._broker = broker
        self._name = f"headrace_{app}"
        self._stream = f"KV_{self._name}"
        self._prefix = f"$KV.{self._name}."
        self._ready = False
        self._atomic = False
        self._expires = False
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Find or create the bucket."""
        async with self._opening:
            if self._ready:
                return
            await self._broker.open()
            config = {
                **self._broker.stream_defaults(limits=False),
                "name": self._stream,
                "description": "Headrace: records of an app",
                "subjects": [f"{self._prefix}>"],
                "max_msgs_per_subject": 1,
                "deny_delete": True,
                "allow_rollup_hdrs": True,
                "discard": "new",
                "duplicate_window": nanoseconds(120),
                "allow_atomic": True,
                "allow_msg_ttl": True,
            }
            try:
                info = await own_stream(self._broker.api, config)
            except (Silent, ApiError) as error:
                raise StoreUnavailable(f"the bucket {self._name} cannot be opened: {error}") from error
            self._atomic = bool(info["config"].get("allow_atomic"))
            self._expires = bool(info["config"].get("allow_msg_ttl"))
            self._ready = True

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """The value of a key and its revision."""
        value, revision = await self.latest(key)
        return None if value is None else (value, revision)

    async def peek(self, key: str) -> bytes | None:
        """The value of a key, without creating a bucket that is not there."""
        await self._broker.open()
        return (await self._latest(key))[0]

    async def latest(self, key: str) -> tuple[bytes | None, int]:
        """As `get`, for `swap`: a removed key has no value but a revision, one that was never there has revision 0."""
        await self.open()
        return await self._latest(key)

    async def _latest(self, key: str) -> tuple[bytes | None, int]:
        try:
            found = await self._broker.api.call(f"STREAM.MSG.GET.{self._stream}", {"last_by_subj": self._prefix + key})
        except ApiError as error:
            if error.err_code in (NO_MESSAGE, STREAM_NOT_FOUND):
                return None, 0
            raise StoreUnavailable(f"{self._name}/{key} cannot be read: {error}") from error
        except Silent as error:
            raise StoreUnavailable(f"{self._name}/{key} cannot be read: {error}") from error
        message = found["message"]
        if _DELETED in base64.b64decode(message.get("hdrs") or ""):
            return None, message["seq"]
        return base64.b64decode(message.get("data") or ""), message["seq"]

    async def under(self, prefix: str) -> dict[str, bytes]:
        """Every key below a prefix (without it) and its value."""
        await self.open()
        found = {}
        start = len(self._prefix) + len(prefix) + 1
        try:
            async for message in read_stream(self._broker, self._stream, f"{self._prefix}{prefix}.>"):
                if _DELETED not in message.headers:
                    found[message.subject[start:]] = message.body
        except (Silent, ApiError) as error:
            raise StoreUnavailable(f"{self._name}/{prefix} cannot be read: {error}") from error
        return found

    async def write(self, changes: Mapping[str, bytes | None]) -> None:
        """Write each key (``None`` removes): all of them or, on servers before 2.12 or above 1,000 keys, in order."""
        await self.open()
        items = list(changes.items())
        for first in range(0, len(items), _ATOMIC_LIMIT):
            await self._write(items[first : first + _ATOMIC_LIMIT])

    async def _write(self, items: Sequence[tuple[str, bytes | None]]) -> None:
        atomic = self._atomic and len(items) > 1
        messages = []
        batch = self._broker.connection.new_inbox().rpartition(".")[2] if atomic else ""
        for number, (key, value) in enumerate(items, 1):
            pairs = [("KV-Operation", "DEL")] if value is None else []
            if value is None and self._expires:
                # A removal is a message too: it need not stay for ever.
                pairs.append(("Nats-TTL", _REMOVAL_STAYS))
            if atomic:
                pairs += [("Nats-Batch-Id", batch), ("Nats-Batch-Sequence", str(number))]
                if number == len(items):
                    pairs.append(("Nats-Batch-Commit", "1"))
            block = header_block(pairs) if pairs else b""
            messages.append(((self._prefix + key).encode(), block, value or b""))
        what = f"records of {self._name}"
        if atomic:
            # Only the last message of a batch is confirmed, for all of them.
            await self._confirmed(await self._broker.publisher.publish_batch(messages, what))
        else:
            for answer in await self._broker.publisher.publish(messages, what):
                await self._confirmed(answer)

    async def _confirmed(self, answer: Confirmed | Exception) -> None:
        if isinstance(answer, Confirmed):
            return
        if isinstance(answer, Missing):
            self._ready = False
        raise StoreUnavailable(f"records of {self._name} are not stored: {answer}") from answer

    async def swap(self, key: str, value: bytes, revision: int) -> bool:
        """Write a key if it still has that revision (0: it was never there)."""
        await self.open()
        block = header_block([("Nats-Expected-Last-Subject-Sequence", str(revision))])
        message = ((self._prefix + key).encode(), block, value)
        (answer,) = await self._broker.publisher.publish([message], f"{self._name}/{key}")
        if isinstance(answer, Refused) and answer.err_code in WRONG_LAST_SEQUENCE:
            return False
        await self._confirmed(answer)
        return True


def token(text: str) -> str:
    """Any text as one token of a key: what a key may not hold is written as ``=`` and two hexadecimal digits."""
    return (
        "".join(chr(byte) if byte in _SAFE else f"={byte:02X}" for byte in text.encode("utf-8", "surrogatepass")) or "="
    )


def text_of(found: str) -> str:
    """The text that `token` was given."""
    if found == "=":
        return ""
    parts = found.split("=")
    raw = parts[0].encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in parts[1:])
    return raw.decode("utf-8", "surrogatepass")
