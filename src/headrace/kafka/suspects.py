"""Starts of suspects in a compacted topic, ``headrace.<app>.suspects``: the key is handler, event source and id.

Which deliveries are suspects the source knows by itself: the commit of each partition says how far its last owner may
have reached. So no process is recorded here, only the starts, and only while there are suspects.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from headrace.engine.ledger import Identity
from headrace.errors import StoreUnavailable
from headrace.kafka.compacted import CompactedTopic
from headrace.kafka.producer import Producer, Record

__all__ = ["CONFIG", "KafkaSuspects", "suspects_topic"]

#: Settings of the topic where we create it.
CONFIG: Final = {"cleanup.policy": "compact", "delete.retention.ms": "3600000", "segment.ms": str(24 * 3600 * 1000)}

#: Seconds for which the table is taken to be whole: what others recorded before they died was there before the group missed
#: them, and so before their records came here. A fast app has suspects by the ten thousand after a crash.
_FRESH: Final = 0.5


def suspects_topic(app: str) -> str:
    """The topic's name."""
    return f"headrace.{app}.suspects"


class KafkaSuspects:
    """See `headrace.engine.checkpoints.Suspects`. ``prepare`` creates or checks the topic before it is first used."""

    def __init__(
        self,
        app: str,
        *,
        producer: Producer,
        config: Mapping[str, Any],
        prepare: Callable[[], Awaitable[object]],
    ) -> None:
        self.topic = suspects_topic(app)
        self._producer = producer
        self._prepare = prepare
        self._counts: dict[bytes, int] = {}
        self._table = CompactedTopic(self.topic, config, self._apply)
        self._prepared = False
        self._read_at = -_FRESH

    def _apply(self, message: Any) -> None:
        value = message.value()
        if value is None:
            self._counts.pop(message.key(), None)
        elif value.isdigit():
            self._counts[message.key()] = int(value)

    async def begin(self, app: str, process: str) -> bool:
        """Always ``True``: not the process but each partition's commit says whether its owner ended cleanly, and so which
        records are marked as delivered before."""
        return True

    async def recorded(self, handler: str, identities: Sequence[Identity]) -> Sequence[int]:
        """How many starts of each are recorded."""
        await self._catch_up()
        return [self._counts.get(_key(handler, identity), 0) for identity in identities]

    async def started(self, handler: str, identities: Sequence[Identity]) -> Sequence[int]:
        """One more start of each, confirmed before this returns; how many are recorded now."""
        await self._catch_up()
        counts: dict[bytes, int] = {}
        records: list[Record] = []
        answers: list[int] = []
        for identity in identities:
            key = _key(handler, identity)
            counts[key] = count = counts.get(key, self._counts.get(key, 0)) + 1
            records.append(Record(b"%d" % count, key, (), 0))
            answers.append(count)
        await self._write(records)
        # Not before: what was not recorded is recorded anew, and is no second start.
        self._counts.update(counts)
        return answers

    async def finished(self, handler: str, identities: Sequence[Identity]) -> None:
        """Forget these. All are written, whether the table has their starts or a former owner's end of them."""
        keys = [_key(handler, identity) for identity in identities]
        await self._write([Record(None, key, (), 0) for key in keys])
        for key in keys:
            self._counts.pop(key, None)

    async def end(self, app: str, process: str) -> None:
        """Let go of the connection."""
        await asyncio.to_thread(self._table.close)

    async def _catch_up(self) -> None:
        if not self._prepared:
            await self._prepare()
            self._prepared = True
        if time.monotonic() - self._read_at >= _FRESH:
            begun = time.monotonic()
            await asyncio.to_thread(self._table.catch_up)
            self._read_at = begun

    async def _write(self, records: Sequence[Record]) -> None:
        for answer in await self._producer.publish(self.topic, records):
            if isinstance(answer, Exception):
                raise StoreUnavailable(f"a suspect's start was not recorded: {answer}")


def _key(handler: str, identity: Identity) -> bytes:
    return msgspec.json.encode([handler, *identity])
