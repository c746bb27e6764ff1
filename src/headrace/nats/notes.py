"""What a successor must know of a keyed handler's consumer, noted in the app's bucket before the consumer is changed.

Each note names the stream's creation: of another incarnation it means nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.nats.broker import NatsBroker

__all__ = ["Notes"]


class Notes:
    """Of one consumer. Trouble raises `StoreUnavailable`."""

    __slots__ = ("_acknowledged", "_broker", "_floor")

    def __init__(self, broker: NatsBroker, durable: str) -> None:
        self._broker = broker
        self._floor = f"floor.{durable}"
        self._acknowledged = f"acknowledged.{durable}"

    async def write_floor(self, floor: int, created: str) -> None:
        """The consumer is about to be deleted, to be made anew behind this floor."""
        await self._write(self._floor, floor, created)

    async def floor(self, created: str) -> int | None:
        """The floor of a consumer that was deleted and perhaps not made anew."""
        return await self._read(self._floor, created)

    async def clear_floor(self) -> None:
        """The consumer has been made anew."""
        await self._broker.bucket.write({self._floor: None})

    async def write_acknowledged(self, sequence: int, created: str) -> None:
        """The message of this sequence is about to be delivered again, though it was acknowledged."""
        await self._write(self._acknowledged, sequence, created)

    async def acknowledged(self, created: str) -> int | None:
        """The last message that was delivered again only to make somebody the owner."""
        return await self._read(self._acknowledged, created)

    async def _write(self, key: str, sequence: int, created: str) -> None:
        await self._broker.bucket.write({key: b"%d %b" % (sequence, created.encode())})

    async def _read(self, key: str, created: str) -> int | None:
        note = await self._broker.bucket.get(key)
        if note is None:
            return None
        sequence, _, incarnation = note[0].partition(b" ")
        return int(sequence) if incarnation == created.encode() else None
