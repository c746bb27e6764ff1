"""Memory of the processes under test, and how it grows: the slope within a process's life, after it has warmed up."""

from __future__ import annotations

import os
import statistics
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Growth", "Memory"]

#: Seconds of a life that are left out, and that must follow for a judgement, at full length.
WARM_UP: Final = 600.0
JUDGED_FROM: Final = 600.0
#: MiB an hour from which memory grows.
LIMIT: Final = 1.0


class Growth(NamedTuple):
    """MiB an hour (``None``: no life was long enough to say), its standing at the end in MiB, seconds that were judged."""

    slope: float | None
    last: float
    seconds: float

    @property
    def ok(self) -> bool:
        """Under the limit, or not judged."""
        return self.slope is None or self.slope < LIMIT


class Memory:
    """Samples by process: (seconds since the run began, MiB). ``file``: where they are also written, one a line."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lives: dict[tuple[str, int], list[tuple[float, float]]] = {}

    def sample(self, replica: str, pid: int, at: float) -> None:
        """Read what a process holds now; one that is gone has no sample."""
        found = resident(pid) if pid else None
        if found is not None:
            self._lives.setdefault((replica, pid), []).append((at, found))
            if self._file is not None:
                with self._file.open("a") as samples:
                    samples.write(f"{replica},{pid},{at:.0f},{found:.2f}\n")

    def growth(self) -> Growth:
        """Of the longest life."""
        life = max(self._lives.values(), key=lambda samples: samples[-1][0] - samples[0][0], default=[])
        if not life:
            return Growth(None, 0.0, 0.0)
        warm = [(at, held) for at, held in life if at - life[0][0] >= WARM_UP]
        seconds = warm[-1][0] - warm[0][0] if warm else 0.0
        slope = _slope(warm) * 3600 if seconds >= JUDGED_FROM else None
        return Growth(None if slope is None else round(slope, 2), round(life[-1][1], 1), round(seconds))


def _slope(samples: list[tuple[float, float]]) -> float:
    """The median of the slopes between all pairs (Theil and Sen): a burst does not tilt it as it would a least square."""
    thinned = samples[:: max(1, len(samples) // 300)]
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(thinned)
        for later in thinned[index + 1 :]
        if later[0] > earlier[0]
    ]
    return statistics.median(slopes) if slopes else 0.0


def resident(pid: int) -> float | None:
    """Resident memory in MiB; ``None`` for a process that is gone."""
    try:
        if os.path.exists("/proc/self/statm"):
            with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
        told = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
        return int(told.stdout) / 1024
    except (OSError, ValueError, IndexError, subprocess.CalledProcessError):
        return None
