"""One ``headrace run`` under test, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["Replica"]

#: Seconds that a drain may take before the replica counts as hung: more than its own limit.
ENDS_WITHIN: Final = 60.0


class Replica:
    """A supervisor and its worker. ``mortal``: its processes may be killed.

    Args:
        name: tells replicas apart; the worker writes its pid into ``<name>.pid``.
        folder: the current folder of the process, with the history.
        environment: the variables of both.
    """

    def __init__(self, name: str, folder: Path, *, mortal: bool, environment: Mapping[str, str]) -> None:
        self.name = name
        self.mortal = mortal
        self.errors = folder / f"{name}.log"
        self._folder = folder
        self._environment = {**environment, "SOAK_REPLICA": name, "SOAK_MORTAL": str(int(mortal))}
        self._process: subprocess.Popen[bytes] | None = None
        self._expected = True

    def start(self) -> None:
        """Start it and go on."""
        self._expected = False
        with self.errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "headrace", "run", "headrace.testing.soak.app:app"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                # An interrupt typed at the terminal ends the load first and the replicas after it.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The worker's process, or 0 where there is none yet."""
        try:
            return int((self._folder / f"{self.name}.pid").read_text())
        except (OSError, ValueError):
            return 0

    @property
    def ended(self) -> int | None:
        """The exit code of one that ended unasked."""
        return None if self._process is None or self._expected else self._process.poll()

    def signal_worker(self, number: signal.Signals) -> None:
        """A signal to the worker alone; one that is gone already has had worse."""
        with contextlib.suppress(ProcessLookupError):
            if self.pid:
                os.kill(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL to the supervisor, with which the worker dies."""
        assert self._process is not None
        self._expected = True
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    async def drain(self) -> int:
        """SIGTERM; the exit code. One that hangs is killed, which shows as a code of -9."""
        assert self._process is not None
        self._expected = True
        self._process.terminate()
        try:
            return await asyncio.to_thread(self._process.wait, ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self.signal_worker(signal.SIGCONT)
            self._process.kill()
            return await asyncio.to_thread(self._process.wait)

    def close(self) -> None:
        """Leave nothing running."""
        if self._process is not None and self._process.poll() is None:
            self._expected = True
            self.signal_worker(signal.SIGCONT)
            self._process.kill()
            self._process.wait()

    def last_words(self, lines: int = 5) -> str:
        """The end of its log."""
        return "\n".join(self.errors.read_text(errors="replace").splitlines()[-lines:]) if self.errors.exists() else ""
