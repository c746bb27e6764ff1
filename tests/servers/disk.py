"""A small file system of a test's own, to be filled: a tmpfs, where this user may mount one."""

import os
import subprocess
from pathlib import Path

from tests.servers.process import Unavailable


class SmallDisk:
    """A tmpfs of ``size`` bytes at ``folder`` until `close`; ``fill`` leaves no byte of it free, ``clear`` undoes that."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._filling = folder / "filling"
        _as_root("mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", str(folder))

    def fill(self) -> None:
        file = os.open(self._filling, os.O_CREAT | os.O_WRONLY)
        try:
            # The last pages go one by one, so that nothing else fits in between.
            for size in (1 << 20, 1 << 12):
                while self._write(file, size):
                    continue
        finally:
            os.close(file)

    @staticmethod
    def _write(file: int, size: int) -> bool:
        try:
            return os.write(file, bytes(size)) == size
        except OSError:
            return False

    def clear(self) -> None:
        self._filling.unlink()

    def close(self) -> None:
        """Take it away; lazily, for a server that was killed may still hold a file for a moment."""
        _as_root("umount", "-l", str(self.folder))


def _as_root(*command: str) -> None:
    """Run a command as root: CI's user may with sudo."""
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    try:
        done = subprocess.run([*prefix, *command], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Unavailable(f"{command[0]} needs root: {error}") from error
    if done.returncode:
        raise Unavailable(f"{command[0]} is not allowed here: {done.stderr.strip()}")
