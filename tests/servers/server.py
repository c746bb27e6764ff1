"""The contract that every test server keeps, whatever it is made of.

A server is started with free loopback ports and a data folder of its own, is ready when ``start`` returns, and keeps
ports and data over ``kill`` and ``restart``: what a test breaks is the server, not its address. Nothing here is
asynchronous: servers work under any event loop and in session-scoped fixtures.
"""

import atexit
import shutil
import sys
import tempfile
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.servers.ports import free_ports
from tests.servers.process import Child, ServerError

# SIGTERM, then SIGKILL: all of it within the 5 s that `python -m tests.servers` promises.
_GRACE = 3.5
_COLLISION = ("address already in use", "eaddrinuse", "address in use", "bind: ", "bindexception")
_living: "weakref.WeakSet[Server]" = weakref.WeakSet()


def tell(message: str) -> None:
    """Progress for a person, on stderr: stdout belongs to the one line of JSON."""
    print(f"servers: {message}", file=sys.stderr, flush=True)


class Server(ABC):
    """One test server.

    Args:
        folder: where its data lives; a temporary folder, removed by ``close``, where none is given.
    """

    name: ClassVar[str]
    port_count: int = 1
    ready_timeout: ClassVar[float] = 30.0

    def __init__(self, *, folder: Path | None = None) -> None:
        self._temporary = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix=f"headrace-{self.name}-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ports: list[int] = []
        self.children: list[Child] = []
        self.ready_seconds = 0.0

    @classmethod
    def fetch(cls) -> None:
        """Bring what the server needs into the cache, unless it is there.

        Raises:
            Unavailable: it cannot be had here; the message says why.
        """

    @property
    @abstractmethod
    def url(self) -> str:
        """The address, as ``HEADRACE_BROKER`` or ``HEADRACE_STORE`` takes it."""

    @abstractmethod
    def prepare(self) -> list[Child]:
        """Write the configuration for ``self.ports`` and say which processes make the server, in starting order."""

    @abstractmethod
    def is_ready(self, child: Child) -> bool:
        """Whether ``child`` serves."""

    def settled(self) -> None:
        """Wait for what only all processes together can do; by default nothing."""
        return

    def description(self) -> dict[str, str]:
        """What ``python -m tests.servers`` prints."""
        return {"name": self.name, "url": self.url}

    def start(self) -> Self:
        """Start and wait until it serves: a new server on free ports, one that was stopped or killed on its old ones.

        A port that somebody else took before a new server could is replaced by another.

        Raises:
            Unavailable: it cannot be had here.
            ServerError: it did not start; the message holds the end of its log.
        """
        if self.children:
            return self.restart()
        self.fetch()
        for attempt in range(5):
            self.ports = free_ports(self.port_count)
            try:
                self._launch()
            except ServerError as error:
                if attempt == 4 or not _is_collision(error):
                    self.close()
                    raise
                self.children = []
            else:
                return self
        raise AssertionError("unreachable")

    def restart(self) -> Self:
        """Start again what was stopped or killed: the same ports, the same data."""
        self.stop()
        self._launch()
        return self

    def _launch(self) -> None:
        began = time.monotonic()
        _living.add(self)
        self.children = self.prepare()
        try:
            for child in self.children:
                child.start()
                child.wait_ready(lambda child=child: self.is_ready(child), timeout=self.ready_timeout)  # type: ignore[misc]
            self.settled()
        except BaseException:
            self.kill()
            raise
        self.ready_seconds = time.monotonic() - began

    @property
    def pid(self) -> int:
        """The process id of the server proper: the last to start."""
        return self.children[-1].pid

    @property
    def alive(self) -> bool:
        return bool(self.children) and all(child.alive for child in self.children)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL, within 5 s. Ports and data are kept for ``restart``."""
        deadline = time.monotonic() + _GRACE
        for child in reversed(self.children):
            child.ask_to_stop()
            if not child.wait_stopped(max(0.05, deadline - time.monotonic())):
                child.kill()

    def kill(self) -> None:
        """SIGKILL to every process, as a machine that loses power would."""
        for child in reversed(self.children):
            child.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        for child in self.children:
            child.pause()

    def resume(self) -> None:
        for child in self.children:
            child.resume()

    def close(self) -> None:
        """Stop and remove the data, where the folder was this server's own."""
        self.stop()
        _living.discard(self)
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, lines: int = 30) -> str:
        """The end of every process's log."""
        return "\n".join(child.tail(lines) for child in self.children)

    def __enter__(self) -> Self:
        return self if self.children else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def wait_until(condition: Callable[[], bool], *, timeout: float, problem: Callable[[], str]) -> None:
    """Ask ``condition`` until it holds; after ``timeout`` seconds a `ServerError` with what ``problem`` says."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise ServerError(problem())
        time.sleep(0.02)


def _is_collision(error: ServerError) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in _COLLISION)


@atexit.register
def _close_all() -> None:
    for server in list(_living):
        server.close()
