"""New messages of channels as they come, for a person who watches: ephemeral consumers that acknowledge nothing.

A stream that deletes what was read (a work queue) takes no second reader: there we listen to the subjects as they are published,
and what comes while the connection is lost is not shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from headrace.errors import InvalidEvent
from headrace.event import Event
from headrace.identifiers import random_id
from headrace.nats.api import ApiError, nanoseconds
from headrace.nats.blocks import decode
from headrace.nats.message import facts, plain
from headrace.nats.requests import Silent
from headrace.nats.streams import incarnation
from headrace.nats.wire import Tap, publication, status

if TYPE_CHECKING:
    from headrace.nats.api import Json
    from headrace.nats.broker import NatsBroker

__all__ = ["follow"]

log = logging.getLogger("headrace.nats")

#: Seconds between looks for streams that are new.
_LOOK_EVERY: Final = 1.0
_BATCH: Final = 256
_EXPIRES: Final = 30.0
_HEARTBEAT: Final = 5.0
#: Streams that hold no channels: key-value and object buckets, dead letters, replays.
_RECORDS: Final = ("KV_", "OBJ_", "headrace_")


async def follow(broker: NatsBroker, channels: Sequence[str]) -> AsyncIterator[tuple[str, Event]]:
    """Channel (the subject) and event of every message from now on, of all channels where none is named.

    Streams that are there at the start are followed from their ends, later ones from their beginnings. A message that is no
    event is logged with its place and the reason.

    Raises:
        Silent, ApiError: JetStream does not answer at the start.
    """
    arrived = asyncio.Event()
    followed: dict[tuple[str, str], _Follower | _Listener] = {}

    def connected() -> None:
        for follower in followed.values():
            follower.again()

    broker.connection.on_connect.append(connected)
    loop = asyncio.get_running_loop()
    looked = -_LOOK_EVERY
    try:
        while True:
            arrived.clear()
            if loop.time() - looked >= _LOOK_EVERY:
                try:
                    for stream in await _streams(broker, channels):
                        name = stream[0]["config"]["name"], stream[1]
                        if name not in followed:
                            if stream[0]["config"].get("retention", "limits") == "limits":
                                followed[name] = _Follower(broker, *stream, arrived, history=looked > 0)
                            else:
                                followed[name] = _Listener(broker, *stream, arrived)
                    for follower in followed.values():
                        await follower.tend()
                except (Silent, ApiError) as error:
                    if looked < 0:
                        raise
                    log.warning("tail: %s; trying again", error)
                looked = loop.time()
            for follower in followed.values():
                for found in follower.take():
                    yield found
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await arrived.wait()
    finally:
        broker.connection.on_connect.remove(connected)
        for follower in followed.values():
            follower.close()


async def _streams(broker: NatsBroker, channels: Sequence[str]) -> list[tuple[Json, str]]:
    """Streams with the subject that is wanted of each, empty for all; channels that nothing captures yet are left out."""
    api = broker.api
    if not channels:
        every = [info async for info in api.pages("STREAM.LIST", "streams")]
        return [(info, "") for info in every if not info["config"]["name"].startswith(_RECORDS)]
    found = []
    for channel in channels:
        name = await api.stream_of(channel)
        info = None if name is None else await api.stream(name)
        if info is not None:
            found.append((info, channel))
    return found


class _Listener:
    """Of one stream that deletes what was read: its subjects, as they are published."""

    def __init__(self, broker: NatsBroker, stream: Json, subject: str, arrived: asyncio.Event) -> None:
        self._connection = broker.connection
        self._source = incarnation(stream).source
        subjects = [subject] if subject else stream["config"].get("subjects") or []
        self._taps = [self._connection.tap(one, arrived.set) for one in subjects]

    async def tend(self) -> None:
        """A subscription needs no care: it is made again after a reconnect."""

    def again(self) -> None:
        """See `tend`."""

    def take(self) -> list[tuple[str, Event]]:
        """What has come."""
        found = []
        for tap in self._taps:
            messages, tap.messages = tap.messages, []
            for subject, _, headers, body in messages:
                channel = subject.decode("utf-8", "replace")
                try:
                    event = decode(headers, body) or plain(subject, headers, body, self._source, random_id(), False)
                except InvalidEvent as error:
                    log.warning("%s: a message is no event: %s", channel, error)
                else:
                    found.append((channel, event))
        return found

    def close(self) -> None:
        """Unsubscribe."""
        for tap in self._taps:
            self._connection.untap(tap)


class _Follower:
    """Of one stream. Its consumer is made again where it is gone, behind the last message that came."""

    def __init__(
        self, broker: NatsBroker, stream: Json, subject: str, arrived: asyncio.Event, *, history: bool
    ) -> None:
        self._broker = broker
        self._stream = stream["config"]["name"]
        self._source = incarnation(stream).source
        self._subject = subject
        self._next = 1 if history else stream["state"]["last_seq"] + 1
        self._arrived = arrived
        self._tap: Tap | None = None
        self._consumer = ""
        self._left = 0
        self._heard = 0.0

    async def tend(self) -> None:
        """See that a consumer is there and lives."""
        now = asyncio.get_running_loop().time()
        if self._consumer and now - self._heard > 2.5 * _HEARTBEAT:
            self.close()
        if self._consumer:
            return
        config = {
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._next,
            "inactive_threshold": nanoseconds(60),
            "mem_storage": True,
            "num_replicas": 1,
        }
        if self._subject:
            config["filter_subject"] = self._subject
        made = await self._broker.api.call(
            f"CONSUMER.CREATE.{self._stream}", {"stream_name": self._stream, "config": config}
        )
        self._consumer = made["name"]
        self._tap = self._broker.connection.tap(self._broker.connection.new_inbox(), self._arrived.set)
        self._heard = now
        self._left = 0
        self._pull()

    def _pull(self) -> None:
        if self._tap is None or self._left > _BATCH // 2:
            return
        request = msgspec.json.encode(
            {"batch": _BATCH, "expires": nanoseconds(_EXPIRES), "idle_heartbeat": nanoseconds(_HEARTBEAT)}
        )
        subject = f"{self._broker.api.prefix}CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        if self._broker.connection.written(publication(subject.encode(), self._tap._subject.encode(), b"", request)):
            self._left += _BATCH

    def again(self) -> None:
        """Pulls that were open died with their connection."""
        self._left = 0
        self._pull()

    def take(self) -> list[tuple[str, Event]]:
        """What has come."""
        tap = self._tap
        if tap is None or not tap.messages:
            return []
        self._heard = asyncio.get_running_loop().time()
        messages, tap.messages = tap.messages, []
        found = []
        for subject, reply, headers, body in messages:
            if not reply:
                self._state(headers)
                continue
            self._left -= 1
            sequence = facts(reply).sequence
            if sequence < self._next:
                continue
            self._next = sequence + 1
            channel = subject.decode("utf-8", "replace")
            try:
                event = decode(headers, body) or plain(subject, headers, body, self._source, str(sequence), False)
            except InvalidEvent as error:
                log.warning("%s: message %d of stream %s is no event: %s", channel, sequence, self._stream, error)
            else:
                found.append((channel, event))
        self._pull()
        return found

    def _state(self, headers: bytes) -> None:
        found = status(headers)
        if found is None or found[0] == 100:
            return
        if found[0] in (404, 408) or "batch completed" in found[1].lower():
            self._left -= int(found[2].get("Nats-Pending-Messages", "0"))
        else:
            self.close()  # made again at the next look

    def close(self) -> None:
        """Let the consumer go."""
        if self._tap is None:
            return
        connection = self._broker.connection
        connection.untap(self._tap)
        self._tap = None
        delete = f"{self._broker.api.prefix}CONSUMER.DELETE.{self._stream}.{self._consumer}"
        connection.written(publication(delete.encode(), b"", b"", b""))
        self._consumer = ""
