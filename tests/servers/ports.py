"""Free loopback ports for servers that must be told their port before they start.

Ports are taken below the range from which the kernel gives outgoing connections theirs: a port of that range could be
taken by some client while a killed server is down, and a test that restarts a server needs the same port again.
A port that was given to one run is given to no other for as long as that run lives, whether a server listens on it or not.
Between finding a port and a server's bind a stranger may still take it; whoever starts the server tries again.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import BinaryIO

HOST = "127.0.0.1"
_FIRST, _LAST = 20000, 31999
# Seeded by the system, not by a test's seed: parallel runs must not walk the same ports.
_random = random.SystemRandom()


class _Given:
    """Ports given to this process: each is a locked byte of one file, which the kernel unlocks when the process ends."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._owner = 0
        self._ports: set[int] = set()

    def take(self, port: int) -> bool:
        """Whether nobody has it, who has it now."""
        if self._file is None or self._owner != os.getpid():
            # A forked copy of this process has none of its locks.
            self._owner = os.getpid()
            self._file = (Path(tempfile.gettempdir()) / f"headrace-ports-{os.getuid()}").open("ab")
        if port in self._ports:
            return False
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        self._ports.add(port)
        return True


_given = _Given()


def is_free(port: int) -> bool:
    """Whether ``port`` can be bound on loopback now. A listener of another run or of this one makes it not free."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """``count`` different ports that were free a moment ago."""
    found: list[int] = []
    for _ in range(10_000):
        if len(found) == count:
            return found
        port = _random.randint(_FIRST, _LAST)
        if is_free(port) and _given.take(port):
            found.append(port)
    raise RuntimeError(f"no {count} free loopback ports between {_FIRST} and {_LAST}")


def accepts(port: int, *, timeout: float = 1.0) -> bool:
    """Whether a server accepts connections on ``port``; ``timeout`` in seconds."""
    try:
        with socket.create_connection((HOST, port), timeout=timeout):
            return True
    except OSError:
        return False
