"""Where what the servers are made of is kept: a folder that git ignores, one subfolder a version.

Several test runs may want the same thing at once: one makes it, the others wait for its lock. What is made appears under
its name only when it is whole, so that an interrupted download or build leaves nothing that looks like a result.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache() -> Path:
    """``HEADRACE_SERVERS_CACHE``, by default ``.servers`` beside the tests."""
    named = os.environ.get("HEADRACE_SERVERS_CACHE")
    return Path(named).resolve() if named else Path(__file__).parents[2] / ".servers"


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock ``name`` of the cache, waiting for whoever has it; a dead holder holds nothing."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def provide(name: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache; where it is missing, ``make`` fills it.

    Raises:
        Unavailable: as ``make`` raises it; nothing is left behind.
    """
    folder = cache() / name
    if folder.exists():
        return folder
    with locked(name):
        if folder.exists():
            return folder
        making = cache() / f"making-{name}-{os.getpid()}"
        making.mkdir()
        try:
            make(making)
            making.rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return folder
