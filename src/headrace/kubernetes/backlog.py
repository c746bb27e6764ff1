"""Changes that wait for one handler: in order per object, one at a time per object, newest state first served.

What waits is bounded by what exists, not by how long a handler takes: of several updates of one object that nobody has
taken yet, the last one remains (states may be skipped, never reordered); deletes are never merged away, nor is the
add that follows one. Only an object that came and went while nobody had room for it may be forgotten as a whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from headrace.kubernetes.store import Delta

__all__ = ["Backlog"]

#: Changes of one name that wait before an add and its delete, neither of them taken, cancel each other out.
_PER_KEY: Final = 8
#: Objects that are gone, with the handler never told of their existence, before newer ones of that kind are forgotten.
_UNTOLD: Final = 10_000


class Backlog:
    """What waits and what is out.

    Args:
        hold: whether a change must wait because it is older than our own last write of that object.

    Attributes:
        size: bytes of objects that wait.
    """

    def __init__(self, *, hold: Callable[[Delta], bool]) -> None:
        self.size = 0
        self._hold = hold
        self._queues: dict[str, deque[Delta]] = {}
        self._ready: dict[str, None] = {}
        self._out: set[str] = set()
        self._blocked: set[str] = set()
        self._untold = 0

    def __len__(self) -> int:
        """Objects with a change that waits."""
        return len(self._queues)

    @property
    def ready(self) -> bool:
        """Something can be taken now."""
        return bool(self._ready)

    @property
    def idle(self) -> bool:
        """Nothing can be taken now, and nothing that was taken is still out: whatever waits, waits for news."""
        return not self._ready and not self._out

    @property
    def oldest(self) -> float | None:
        """When the change that waits first in line was observed, or ``None``."""
        for key in self._queues:
            return self._queues[key][0].observed
        return None

    def add(self, change: Delta) -> None:
        """Put a change at the end of its object's queue, merged with what waits there."""
        key = change.key
        queue = self._queues.get(key)
        if queue is None:
            if change.minor:
                return
            queue = self._queues[key] = deque()
            self._append(queue, change)
        else:
            self._merge(queue, change)
            if not queue:
                del self._queues[key]
                self._ready.pop(key, None)
                return
        self._consider(key)

    def take(self) -> Delta:
        """The next change; its object has no other one until `done` or `put_back`. Raises ``KeyError`` where none
        is ready."""
        key = next(iter(self._ready))
        del self._ready[key]
        queue = self._queues[key]
        change = queue.popleft()
        if not queue:
            del self._queues[key]
        if not self._ready:
            # A dict keeps the room of all it ever held, and the first key is looked for from its beginning.
            self._ready.clear()
            if not self._queues:
                self._queues.clear()
        self._forget(change)
        self._out.add(key)
        return change

    def done(self, key: str) -> None:
        """What was taken of this object is finished; its next change may be taken."""
        self._out.discard(key)
        if key in self._queues:
            self._consider(key)

    def put_back(self, change: Delta) -> None:
        """What was taken was not begun: it is first in line again, merged with what came since."""
        later = self._queues.pop(change.key, None)
        queue = self._queues[change.key] = deque()
        self._append(queue, change)
        for following in later or ():
            self._forget(following)
            self._merge(queue, following)
        if not queue:
            del self._queues[change.key]
        self.done(change.key)

    def block(self, key: str) -> None:
        """Hold an object's changes until `unblock`: something about the first one is being found out."""
        self._blocked.add(key)
        self._ready.pop(key, None)

    def unblock(self, key: str) -> None:
        self._blocked.discard(key)
        if key in self._queues:
            self._consider(key)

    def reconsider(self) -> None:
        """What was held may be held no longer."""
        for key in self._queues:
            self._consider(key)

    def waiting(self, key: str) -> Delta | None:
        """The change that would be taken next of this object."""
        queue = self._queues.get(key)
        return queue[0] if queue else None

    def clear(self) -> None:
        """Forget everything: another replica owns these objects now, or a checkpoint is read anew."""
        self.size = self._untold = 0
        for held in (self._queues, self._ready, self._out, self._blocked):
            held.clear()

    def _consider(self, key: str) -> None:
        if key in self._out or key in self._blocked:
            return
        if self._hold(self._queues[key][0]):
            self._ready.pop(key, None)
        else:
            self._ready[key] = None

    def _append(self, queue: deque[Delta], change: Delta) -> None:
        queue.append(change)
        self.size += _size(change)
        if change.verb == "delete" and len(queue) > 1 and queue[-2].verb == "add":
            change.untold = True
            self._untold += 1

    def _forget(self, change: Delta) -> None:
        """It left its queue."""
        self.size -= _size(change)
        if change.untold:
            change.untold = False
            self._untold -= 1

    def _merge(self, queue: deque[Delta], change: Delta) -> None:
        last = queue[-1] if queue else None
        if last is None:
            if not change.minor:
                self._append(queue, change)
            return
        if change.resync:
            return  # the same object will be shown anyway
        if change.verb == "update" and last.verb != "delete":
            # The handler was not told of the state before: it is told of this one only, and compared with what it
            # knows.
            self.size += _size(change) - _size(last)
            last.version, last.raw, last.digest = change.version, change.raw, change.digest
            last.resync = False
            return
        if change.verb == "delete" and last.verb == "update":
            change.previous = last.previous if last.previous is not None else change.previous
            self._forget(queue.pop())
        elif change.verb == "delete" and last.verb == "add" and (len(queue) >= _PER_KEY or self._untold >= _UNTOLD):
            self._forget(queue.pop())
            return
        if not change.minor:
            self._append(queue, change)


def _size(change: Delta) -> int:
    return len(change.raw) if change.raw is not None else 0
