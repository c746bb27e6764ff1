"""The record that travels in the metadata of an offset commit, and its compact text.

A commit says "all below this offset is done". What is done beyond it would be repeated after a restart, so it goes
into the commit's metadata: a string of at most 4,095 characters. No I/O here.

The text is ASCII, since some brokers count bytes where Apache Kafka counts characters:
``hr1 <topic id> <partitions> <base> <reached> <map> <owner>``, separated by spaces, where

- ``hr1`` is the version: a reader that does not know it ignores the record, which repeats work and loses nothing;
- the topic id and ``base`` (the committed offset) say what the record is about: under another topic id, or with an
  offset that somebody moved, it is void;
- ``partitions`` is how many the topic had: a partition beyond them is a new one, to be read from its beginning;
- ``reached`` is the first offset that cannot have been handed to a handler before the next record was stored. What lies
  between base and it was in flight, or queued for it, if the owner ended without giving the partition back;
- the map is empty, or ``b`` and a bit set (bit i of the bytes, least significant first: base + i is done), or ``r`` and
  run lengths (LEB128 numbers: not done, done, not done, …), whichever is shorter; base64 without padding;
- the owner, eight characters, is who wrote the record: one that lost the partition and gets it back has not died of what it
  announced itself. It may be missing.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["LIMIT", "NO_TOPIC_ID", "Record", "Runs", "contains", "decode", "encode", "map_room", "size_of"]

#: Apache Kafka's default for ``offset.metadata.max.bytes`` is 4096, and 4,096 characters are refused.
LIMIT: Final = 4095
#: Where the broker knows no topic ids (before Kafka 2.8).
NO_TOPIC_ID: Final = "-"
_VERSION: Final = "hr1"
#: Version, topic id (22 characters), a number of partitions, two offsets of 19 digits, six spaces, owner and the map's kind.
_FRAME: Final = 3 + 22 + 6 + 19 + 19 + 6 + 8 + 1
#: A map that claims more is garbage; it bounds what a reader allocates.
_WIDEST: Final = 1 << 40

#: Half-open ranges of offsets, ascending, neither empty nor touching.
Runs = Sequence[tuple[int, int]]


class Record(NamedTuple):
    """What one commit says about one partition. ``done`` holds ranges at or beyond ``base``."""

    topic_id: str
    partitions: int
    base: int
    reached: int
    done: Runs = ()
    owner: str = ""


def encode(record: Record, *, limit: int = LIMIT) -> str:
    """The record as text of at most ``limit`` characters; empty where not even an empty map fits.

    A map that does not fit is cut from its end: what is cut is repeated after a restart, never lost. `Offsets.ceiling`
    lets a caller see to it beforehand that nothing is cut.
    """
    frame = f"{_VERSION} {record.topic_id or NO_TOPIC_ID} {record.partitions} {record.base} {record.reached} "
    end = f" {record.owner}" if record.owner else ""
    left = limit - len(frame) - len(end)
    return "" if left < 0 else frame + _map(record, left) + end


def _map(record: Record, limit: int) -> str:
    room = (limit - 1) * 3 // 4
    if not record.done or room <= 0:
        return ""
    packed_runs = _run_lengths(record.base, record.done)
    bitmap_size = (record.done[-1][1] - record.base + 7) // 8
    if len(packed_runs) <= min(room, bitmap_size):
        return "r" + _text(packed_runs)
    if bitmap_size <= room:
        return "b" + _text(_bits(record.base, record.done))
    as_runs = _cut_runs(record.base, record.done, room)
    end = record.base + room * 8
    as_bits = [(start, min(stop, end)) for start, stop in record.done if start < end]
    if as_runs and _count(as_runs) >= _count(as_bits):
        return "r" + _text(_run_lengths(record.base, as_runs))
    return "b" + _text(_bits(record.base, as_bits)) if as_bits else ""


def decode(text: str | None) -> Record | None:
    """The record in a commit's metadata; ``None`` where there is none that this version can read."""
    if not text or not text.startswith(_VERSION + " "):
        return None
    fields = text.rstrip("\0").split(" ")
    if len(fields) not in (6, 7) or not text.isascii() or not all(field.isdecimal() for field in fields[2:5]):
        return None
    owner = fields[6] if len(fields) == 7 else ""
    if len(fields) == 7 and not owner:
        return None
    partitions, base, reached = map(int, fields[2:5])
    try:
        done = _unpack(base, fields[5])
    except (ValueError, binascii.Error):
        return None
    return Record(fields[1], partitions, base, reached, done, owner)


def contains(runs: Runs, offset: int) -> bool:
    """Whether an offset lies in one of the ranges."""
    low, high = 0, len(runs)
    while low < high:
        middle = (low + high) // 2
        if runs[middle][1] <= offset:
            low = middle + 1
        else:
            high = middle
    return low < len(runs) and runs[low][0] <= offset


def map_room(limit: int = LIMIT) -> int:
    """Bytes that a map may have in any record of at most ``limit`` characters."""
    return max(0, limit - _FRAME) * 3 // 4


def size_of(number: int) -> int:
    """Bytes that a number takes among run lengths."""
    return max(1, (number.bit_length() + 6) // 7)


def _text(packed: bytes | bytearray) -> str:
    return b64encode(packed).rstrip(b"=").decode("ascii")


def _append(packed: bytearray, number: int) -> None:
    while number > 0x7F:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)


def _run_lengths(base: int, done: Runs) -> bytearray:
    packed = bytearray()
    at = base
    for start, stop in done:
        _append(packed, start - at)
        _append(packed, stop - start)
        at = stop
    return packed


def _cut_runs(base: int, done: Runs, room: int) -> Runs:
    """As many ranges from the start as fit into ``room`` bytes."""
    used, at = 0, base
    for index, (start, stop) in enumerate(done):
        used += size_of(start - at) + size_of(stop - start)
        if used > room:
            return done[:index]
        at = stop
    return done


def _bits(base: int, done: Runs) -> bytes:
    digits: list[str] = []
    at = base
    for start, stop in done:
        digits += ("0" * (start - at), "1" * (stop - start))
        at = stop
    return int("".join(digits)[::-1], 2).to_bytes((at - base + 7) // 8, "little")


def _count(runs: Runs) -> int:
    return sum(stop - start for start, stop in runs)


def _unpack(base: int, packed: str) -> Runs:
    if not packed:
        return []
    kind, body = packed[0], packed[1:]
    data = b64decode(body + "=" * (-len(body) % 4), validate=True)
    if kind == "r":
        return _from_lengths(base, data)
    if kind == "b":
        return _from_bits(base, data)
    raise ValueError(f"no such kind of map: {kind!r}")


def _from_lengths(base: int, data: bytes) -> Runs:
    numbers: list[int] = []
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
        elif shift > 63:
            raise ValueError("a run length of more than nine bytes")
    if shift or len(numbers) % 2:
        raise ValueError("run lengths cut off")
    runs: list[tuple[int, int]] = []
    at = base
    for skipped, length in zip(numbers[::2], numbers[1::2], strict=True):
        start = at + skipped
        at = start + length
        if length == 0 or (runs and skipped == 0) or at - base > _WIDEST:
            raise ValueError("run lengths that no writer makes")
        runs.append((start, at))
    return runs


def _from_bits(base: int, data: bytes) -> Runs:
    digits = f"{int.from_bytes(data, 'little'):b}"[::-1]
    runs: list[tuple[int, int]] = []
    at = digits.find("1")
    while at >= 0:
        stop = digits.find("0", at)
        stop = len(digits) if stop < 0 else stop
        runs.append((base + at, base + stop))
        at = digits.find("1", stop)
    return runs
