"""Who owns a SQLite file: a lock that the system drops with its holder, and the holder's pid for the message."""

from __future__ import annotations

import fcntl
import os
from typing import Final

from headrace.engine.ledger import Owner
from headrace.errors import RefusedError

__all__ = ["Ownership", "holder_of"]

_held: Final[dict[str, Ownership]] = {}


class Ownership:
    """The lock on ``<file>.lock``, shared by every store that one owner opens on the file."""

    def __init__(self, place: str, owner: Owner, lock: int) -> None:
        self._place = place
        self._lock = lock
        self.owner = owner.id
        self.users = 1

    @classmethod
    def take(cls, path: str, owner: Owner) -> Ownership:
        """Take the lock. Raises `RefusedError` naming the file and the holder's pid, `OSError` where it cannot be made."""
        place = os.path.realpath(path)
        held = _held.get(place)
        if held is not None and held.owner == owner.id:
            held.users += 1
            return held
        lock = os.open(f"{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            raise RefusedError(
                f"store {path}: the worker with pid {holder or '?'} owns this file; a SQLite file has one worker at a "
                "time. Stop that one, use another file, or use postgresql:// for several workers"
            ) from None
        except BaseException:
            os.close(lock)
            raise
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{owner.pid}\n".encode(), 0)
        ownership = _held[place] = cls(place, owner, lock)
        return ownership

    def release(self) -> None:
        """Let go; the last of its users drops the lock."""
        self.users -= 1
        if self.users == 0:
            if _held.get(self._place) is self:
                del _held[self._place]
            os.close(self._lock)


def holder_of(path: str) -> int | None:
    """The pid of the worker that owns a file, or ``None``; it takes no lock, so that it is in no worker's way."""
    try:
        with open(f"{os.path.realpath(path)}.lock", encoding="ascii") as lock:
            pid = int(lock.read(32))
    except (OSError, ValueError):
        return None
    try:
        os.kill(pid, 0)
    except PermissionError:
        return pid  # it runs, as another user
    except (ProcessLookupError, OverflowError):
        return None
    return pid
