"""The offsets of one partition between hand-over and commit: which are done, and how far all are.

Handlers finish in any order; a commit may name only what is contiguous. Two arrays in order of hand-over (offsets, and
one byte each for done) keep this at nine bytes an event, and finding the watermark at one `bytearray.find`. Offsets
that never arrive (compacted away, transaction markers, aborted) count as done once a later one has. No I/O here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Final

from headrace.kafka.completed import LIMIT, Record, Runs, contains, map_room, size_of

__all__ = ["Offsets"]

#: Done entries before the watermark are cut off when there are this many, so that a commit moves few bytes.
_TRIM: Final = 4096
_PENDING: Final = b"\0"
_DONE: Final = b"\1"


class Offsets:
    """One partition, from the offset at which this owner starts.

    Parameters: ``start``: the first offset that is not known to be done; ``done``: ranges beyond it that a former owner
    completed; ``limit``: characters of commit metadata that the broker takes.
    """

    __slots__ = ("_cut", "_flags", "_head", "_offsets", "_restored", "_room", "next")

    def __init__(self, start: int, done: Runs = (), *, limit: int = LIMIT) -> None:
        #: The offset after the last one that was handed over or skipped.
        self.next = start
        self._offsets = array("q")
        self._flags = bytearray()
        #: Entries cut off at the front so far: an entry's token is its index plus this.
        self._cut = 0
        #: All entries before this index are done.
        self._head = 0
        self._restored: list[tuple[int, int]] = [run for run in done if run[1] > start]
        self._room = map_room(limit)

    def limit(self, characters: int) -> None:
        """The broker turned out to take only so many characters of metadata."""
        self._room = map_room(characters)

    def hand_over(self, offset: int) -> int | None:
        """Note that an offset arrived; the token that completes it, or ``None`` for one that is not to be handled: a
        former owner completed it, or it is below ``next`` and was handed over before."""
        if offset < self.next:
            return None
        self.next = offset + 1
        self._offsets.append(offset)
        if self._restored and self._was_done(offset):
            self._flags.append(1)
            return None
        self._flags.append(0)
        return self._cut + len(self._flags) - 1

    def hand_over_all(self, offsets: Sequence[int]) -> Sequence[int | None]:
        """As `hand_over` for each."""
        first, count = offsets[0], len(offsets)
        if self._restored or first < self.next or offsets != list(range(first, first + count)):
            return [self.hand_over(offset) for offset in offsets]
        # In a row and none met before, as nearly always.
        self.next = first + count
        token = self._cut + len(self._flags)
        self._offsets.extend(offsets)
        self._flags.extend(bytes(count))
        return range(token, token + count)

    def _was_done(self, offset: int) -> bool:
        if offset >= self._restored[-1][1]:
            self._restored.clear()
            return False
        return contains(self._restored, offset)

    def skip_to(self, offset: int) -> int:
        """The next record is this one: what lies between and was not handed over never arrives. How far that was."""
        skipped = max(0, offset - self.next)
        self.next += skipped
        return skipped

    def complete(self, tokens: Iterable[int]) -> None:
        """The deliveries of these tokens are settled for good."""
        flags, cut = self._flags, self._cut
        for token in tokens:
            flags[token - cut] = 1

    def watermark(self) -> int:
        """The offset to commit: everything below it is done."""
        flags = self._flags
        head = flags.find(_PENDING, self._head)
        if head >= 0:
            self._head = head
            if head >= _TRIM:
                self._trim()
            return self._offsets[self._head]
        self._head = len(flags)
        if self._head >= _TRIM:
            self._trim()
        base = self.next
        for start, stop in self._restored:
            if start <= base < stop:
                base = stop
        return base

    def _trim(self) -> None:
        del self._flags[: self._head]
        del self._offsets[: self._head]
        self._cut += self._head
        self._head = 0

    @property
    def outstanding(self) -> int:
        """How many were handed over and are not done."""
        return self._flags.count(0, self._head)

    def left(self, end: int) -> int:
        """How many are not done up to ``end``: handed over, or still to arrive and not completed by a former owner."""
        arriving = max(0, end - self.next)
        for first, last in self._restored if arriving else ():
            arriving -= max(0, min(last, end) - max(first, self.next))
        return self.outstanding + arriving

    def done(self) -> Runs:
        """Ranges beyond the watermark that are done: completed here, then those of a former owner that have still to
        arrive."""
        base = self.watermark()
        flags, offsets = self._flags, self._offsets
        runs: list[tuple[int, int]] = []
        start = flags.find(_DONE, self._head)
        while start >= 0:
            stop = flags.find(_PENDING, start)
            runs.append((offsets[start], self.next if stop < 0 else offsets[stop]))
            start = flags.find(_DONE, stop) if stop >= 0 else -1
        for first, last in self._restored:
            first = max(first, self.next)
            if first >= last or last <= base:
                continue
            if runs and runs[-1][1] == first:
                runs[-1] = (runs[-1][0], last)
            else:
                runs.append((first, last))
        return runs

    def record(self, topic_id: str, partitions: int, reached: int = 0, owner: str = "") -> Record:
        """What to commit now; the arguments as `Record` has them."""
        base = self.watermark()
        return Record(topic_id, partitions, base, max(reached, base), self.done(), owner)

    def ceiling(self) -> int:
        """Offsets below this may be handed over, and the map still fits however their handlers finish.

        Within the span that a bit set covers any pattern fits. Beyond it run lengths are counted at their worst: what
        is pending can be split into pairs of (pending, done), one for every second entry; each number takes a byte, and
        one more for each 128 in it at most, or as many as the widest of them could have: a gap is wide and one number.
        """
        base = self.watermark()
        span = base + self._room * 8
        end = max(self.next, self._restored[-1][1] if self._restored else 0)
        if end < span:
            return span
        pairs = 1 + sum(1 for run in self._restored if run[1] > self.next)
        flags = self._flags
        start = self._head
        while 0 <= start < len(flags):
            stop = flags.find(_DONE, start)
            pairs += ((len(flags) if stop < 0 else stop) - start + 1) // 2
            start = flags.find(_PENDING, stop) if stop >= 0 else -1
        widest = size_of(end - base + self._room)
        free = self._room - 2 * pairs - min((end - base) // 128, 2 * pairs * (widest - 1))
        # n further entries take n + 1 bytes as pairs and n / 128 for their width.
        return max(self.next + max(0, free - 3) * 128 // 129, span)
