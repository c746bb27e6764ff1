"""Mosquitto, the MQTT broker, from its Debian package: one listener for everybody, one with a password."""

import getpass
import subprocess
from pathlib import Path

from tests.servers.debian import library_path, unpacked
from tests.servers.ports import HOST, accepts
from tests.servers.process import Child, ServerError
from tests.servers.server import Server
from tests.servers.versions import MOSQUITTO

USER, PASSWORD = "alice", "alice-secret"


class Mosquitto(Server):
    """One broker that keeps its sessions and messages over restarts.

    Args:
        folder: see `Server`.
        extra: lines for the end of the configuration file.
    """

    name = "mosquitto"
    port_count = 2

    def __init__(self, *, folder: Path | None = None, extra: str = "") -> None:
        super().__init__(folder=folder)
        self._extra = extra

    @classmethod
    def fetch(cls) -> None:
        _root()

    @property
    def url(self) -> str:
        return f"mqtt://{HOST}:{self.ports[0]}"

    @property
    def guarded_url(self) -> str:
        """The listener that asks for a password, with the right one."""
        return f"mqtt://{USER}:{PASSWORD}@{HOST}:{self.ports[1]}"

    def prepare(self) -> list[Child]:
        root = _root()
        passwords = self.folder / "passwords"
        if not passwords.exists():
            command = [str(root / "usr/bin/mosquitto_passwd"), "-b", "-c", str(passwords), USER, PASSWORD]
            done = subprocess.run(command, env=library_path(root), capture_output=True, text=True, check=False)
            if done.returncode:
                raise ServerError(f"mosquitto_passwd failed: {done.stderr}")
        configuration = self.folder / "mosquitto.conf"
        configuration.write_text(
            "per_listener_settings true\n"
            f"persistence true\npersistence_location {self.folder}/\nautosave_on_changes true\nautosave_interval 1\n"
            # As root it would become the user mosquitto, whom this machine need not have.
            f"user {getpass.getuser()}\n"
            "max_queued_messages 0\n"
            f"listener {self.ports[0]} {HOST}\nallow_anonymous true\n"
            f"listener {self.ports[1]} {HOST}\nallow_anonymous false\npassword_file {passwords}\n"
            f"{self._extra}\n"
        )
        command = [str(root / "usr/sbin/mosquitto"), "-c", str(configuration)]
        return [Child("mosquitto", command, log=self.folder / "mosquitto.log", env=library_path(root))]

    def is_ready(self, child: Child) -> bool:
        return accepts(self.ports[0]) and accepts(self.ports[1])


def _root() -> Path:
    return unpacked("mosquitto", MOSQUITTO, libraries=True)
