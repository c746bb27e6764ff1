"""Reads what a stream holds now, once, from the first message to the last, in large batches.

For dead letters and other records of ours: an ephemeral consumer that acknowledges nothing and disappears by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from headrace.nats.api import NO_MESSAGE, ApiError, nanoseconds
from headrace.nats.message import facts
from headrace.nats.requests import Silent
from headrace.nats.wire import publication, status

if TYPE_CHECKING:
    from headrace.nats.broker import NatsBroker

__all__ = ["Read", "read_stream"]

_BATCH: Final = 512
_BATCH_BYTES: Final = 8 * 1024 * 1024
_QUIET: Final = 5.0


class Read(NamedTuple):
    """One stored message. ``time``: when it was stored, in seconds since the epoch."""

    subject: str
    sequence: int
    time: float
    headers: bytes
    body: bytes


async def read_stream(
    broker: NatsBroker, stream: str, subject: str, *, headers_only: bool = False
) -> AsyncIterator[Read]:
    """What the stream holds at the start of the call and still holds when its turn comes.

    Raises:
        ApiError: there is no such stream. Silent: the server does not answer.
    """
    state = (await broker.api.call(f"STREAM.INFO.{stream}"))["state"]
    end = state["last_seq"]
    start: int | None = 1 if state["messages"] else None
    while start is not None and start <= end:
        last = start - 1
        async for message in _read_from(broker, stream, subject, start, end, headers_only):
            last = message.sequence
            yield message
        # Where messages are replaced meanwhile, the server's count of what is left is too low at times, and it says too
        # early that it has sent everything.
        start = await _next(broker, stream, subject, last + 1)


async def _next(broker: NatsBroker, stream: str, subject: str, sequence: int) -> int | None:
    """The sequence of the first message at or after one."""
    try:
        found = await broker.api.call(f"STREAM.MSG.GET.{stream}", {"seq": sequence, "next_by_subj": subject})
    except ApiError as error:
        if error.err_code == NO_MESSAGE:
            return None
        raise
    return int(found["message"]["seq"])


async def _read_from(
    broker: NatsBroker, stream: str, subject: str, start: int, end: int, headers_only: bool
) -> AsyncIterator[Read]:
    """Messages from ``start`` to ``end``, until the server says that there are no more."""
    api, connection = broker.api, broker.connection
    config = {
        "ack_policy": "none",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": start,
        "filter_subject": subject,
        "headers_only": headers_only,
        "inactive_threshold": nanoseconds(30),
        "mem_storage": True,
        "num_replicas": 1,
    }
    made = await api.call(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
    name = made["name"]
    arrived = asyncio.Event()
    tap = connection.tap(connection.new_inbox(), arrived.set)
    request = msgspec.json.encode({"batch": _BATCH, "max_bytes": _BATCH_BYTES, "no_wait": True})
    pull = publication(f"{api.prefix}CONSUMER.MSG.NEXT.{stream}.{name}".encode(), tap._subject.encode(), b"", request)
    try:
        left = 0
        while True:
            if left <= 0:
                if not connection.written(pull):
                    raise Silent(f"the connection to NATS was lost while stream {stream} was read")
                left = _BATCH
            arrived.clear()
            if not tap.messages:
                try:
                    async with asyncio.timeout(_QUIET):
                        await arrived.wait()
                except TimeoutError:
                    raise Silent(f"stream {stream} stopped sending while it was read") from None
            messages, tap.messages = tap.messages, []
            for name_, reply, headers, body in messages:
                if not reply:
                    found = status(headers)
                    if found is None or found[0] == 100:
                        continue
                    if found[0] == 409 and "maxbytes" in found[1].lower().replace(" ", ""):
                        # The next message is larger than a batch may be: take it alone.
                        request = msgspec.json.encode({"batch": 1, "no_wait": True})
                        large = publication(pull.split(b" ", 2)[1], tap._subject.encode(), b"", request)
                        left = 1 if connection.written(large) else 0
                        continue
                    if found[0] == 409 and "batch completed" in found[1].lower():
                        left -= int(found[2].get("Nats-Pending-Messages", "0"))
                        continue
                    if found[0] in (404, 408):
                        return
                    raise Silent(f"stream {stream} cannot be read: {found[0]} {found[1]}")
                left -= 1
                about = facts(reply)
                if about.sequence > end:
                    return
                yield Read(name_.decode(), about.sequence, about.time / 1e9, headers, body)
                if about.left == 0:
                    return
    finally:
        connection.untap(tap)
        connection.written(publication(f"{api.prefix}CONSUMER.DELETE.{stream}.{name}".encode(), b"", b"", b""))
