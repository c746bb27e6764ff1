"""nats-server as the tests of this folder break it: killed, paused, restarted on the same port and data."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from headrace.nats.embedded import binary
from tests.servers.ports import free_ports


class NatsServer:
    """One server. ``extra`` is appended to its configuration; ``authority`` is put into its URL."""

    def __init__(self, folder: Path, *, extra: str = "", authority: str = "", scheme: str = "nats") -> None:
        self.folder = folder
        self.extra = extra
        self.authority = authority
        self.scheme = scheme
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}127.0.0.1:{self.port}"

    def start(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.port:
            # One that no client is given by the kernel while this server is down.
            (self.port,) = free_ports(1)
        configuration = self.folder / "nats.conf"
        self.write()
        with (self.folder / "nats.log").open("ab") as log:
            self._process = subprocess.Popen([str(binary()), "-c", str(configuration)], stdout=log, stderr=log)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as link:
                    if link.recv(4) == b"INFO":
                        return self
            except OSError:
                time.sleep(0.01)
        raise RuntimeError((self.folder / "nats.log").read_text())

    def write(self) -> None:
        store = self.folder / "jetstream"
        (self.folder / "nats.conf").write_text(
            f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{store}" }}\n{self.extra}\n'
        )

    def reload(self) -> None:
        """Read the configuration again."""
        self.write()
        self._signal(signal.SIGHUP)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        # The signal is on its way when kill returns: wait until every thread has stopped.
        for status in Path(f"/proc/{self._process.pid}/task").glob("*/stat"):
            while status.read_text().rpartition(")")[2].split()[0] not in ("T", "t", "Z"):
                time.sleep(0.001)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.kill()
