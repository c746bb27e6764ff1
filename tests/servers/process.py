"""One child process of a test server: started, waited for, signalled, and never left behind.

Every child leads a process group of its own, so that an interrupt typed at the terminal reaches only the test run, and
its output goes to a file whose tail is part of every error message. Children end when the test run ends, however it
ends: a guard process, which holds one end of a pipe, kills what is left when the other end closes.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_GUARD = """
import os, signal, sys
living = set()
for line in sys.stdin:
    word, pid = line.split()
    (living.add if word == "+" else living.discard)(int(pid))
for pid in living:
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        print(f"server {pid} had ended", file=sys.stderr)
"""


class ServerError(Exception):
    """A server did not start, or ended by itself; the message holds the end of its log."""


class Unavailable(Exception):
    """A server cannot be had on this machine; the message is the reason for a skip."""


class _Guard:
    """Tells a process that outlives this one which children to kill."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def tell(self, word: str, pid: int) -> None:
        with self._lock:
            # A forked copy of this process needs a guard of its own: the pipe of its parent is not its to write.
            if self._process is None or self._owner != os.getpid():
                self._owner = os.getpid()
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-E", "-c", _GUARD],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    start_new_session=True,
                )
            assert self._process.stdin is not None
            self._process.stdin.write(f"{word} {pid}\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Let it end, once every child has."""
        process = self._process
        if process is not None and self._owner == os.getpid():
            assert process.stdin is not None
            process.stdin.close()
            process.wait(5)


_guard = _Guard()
atexit.register(_guard.close)


class Child:
    """One operating-system process of a server.

    Args:
        name: what messages call it.
        command: program and arguments.
        log: the file that gets its output, appended to over restarts.
        env: variables added to those of this process.
        user: the uid (and gid) to run as, where this process is root and the program refuses to be.
        stop_signal: what asks it to end.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        user: tuple[int, int] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._env = {**os.environ, **(env or {})}
        self._user = user
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._paused = False

    @property
    def pid(self) -> int:
        """The process id; an error where it was never started."""
        if self._process is None:
            raise ServerError(f"{self.name} was not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        if self.alive:
            raise ServerError(f"{self.name} is running already (pid {self.pid})")
        identity = {} if self._user is None else {"user": self._user[0], "group": self._user[1], "extra_groups": []}
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self.log.parent,
                start_new_session=True,
                **identity,  # type: ignore[call-overload]
            )
        self._paused = False
        _guard.tell("+", self._process.pid)

    def wait_ready(self, ready: Callable[[], bool], *, timeout: float) -> None:
        """Ask ``ready`` until it says yes; ``timeout`` in seconds.

        Raises:
            ServerError: the process ended, or was not ready in time.
        """
        deadline = time.monotonic() + timeout
        pause = 0.002
        while not ready():
            if not self.alive:
                raise ServerError(f"{self.name} ended with {self.exit_code} before it was ready\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} was not ready after {timeout:g} s\n{self.tail()}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)

    def output(self) -> str:
        """What it has printed since it was last started."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def tail(self, lines: int = 30) -> str:
        """The end of its log, for an error message."""
        if not self.log.exists():
            return f"--- {self.name} has no log"
        text = self.output().splitlines()[-lines:]
        return "\n".join([f"--- end of the log of {self.name} ({' '.join(self.command[:2])}):", *text])

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def ask_to_stop(self) -> None:
        """Send the signal that asks it to end, waking it where it is paused."""
        if self.alive:
            os.kill(self.pid, self._stop_signal)
        if self._paused:
            self.resume()

    def wait_stopped(self, timeout: float) -> bool:
        """Wait ``timeout`` seconds for its end; whether it ended."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        _guard.tell("-", self._process.pid)
        return True

    def kill(self) -> None:
        """SIGKILL to it and all it has started, and wait for its end."""
        if self._process is None:
            return
        self.signal(signal.SIGKILL)
        self.wait_stopped(10)

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing. Every thread has stopped when this returns."""
        self.signal(signal.SIGSTOP)
        self._paused = True
        for pid in self._family():
            _wait_paused(pid)

    def resume(self) -> None:
        """SIGCONT after a pause."""
        self.signal(signal.SIGCONT)
        self._paused = False

    def signal(self, number: signal.Signals) -> None:
        """Send ``number`` to it and all it has started."""
        for pid in self._family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _family(self) -> list[int]:
        """The process and what it has started. PostgreSQL's own children are in no group of their parent's."""
        if self._process is None or self._process.poll() is not None:
            return []
        parents = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        family = [self._process.pid]
        for pid in family:
            family += [child for child, parent in parents.items() if parent == pid]
        return family


def _wait_paused(pid: int) -> None:
    """The signal is on its way when ``kill`` returns: wait until each thread has taken it, or has ended."""
    for status in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            while status.read_text().rpartition(")")[2].split()[0] not in "TtZX":
                time.sleep(0.001)
