"""Free loopback ports for servers that must be told their port before they start.

Ports are taken below the range from which the kernel gives outgoing connections theirs: a port of that range could be
taken by some client while a killed server is down, and a test that restarts a server needs the same port again.
Between finding a port and a server's bind somebody else may take it; whoever starts the server tries again.
"""

import random
import socket

HOST = "127.0.0.1"
_FIRST, _LAST = 20000, 31999
# Seeded by the system, not by a test's seed: parallel runs must not walk the same ports.
_random = random.SystemRandom()


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
        if port not in found and is_free(port):
            found.append(port)
    raise RuntimeError(f"no {count} free loopback ports between {_FIRST} and {_LAST}")


def accepts(port: int, *, timeout: float = 1.0) -> bool:
    """Whether a server accepts connections on ``port``; ``timeout`` in seconds."""
    try:
        with socket.create_connection((HOST, port), timeout=timeout):
            return True
    except OSError:
        return False
