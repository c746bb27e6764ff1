"""Import and help time: the minimum of ten, in milliseconds, beside a bare interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
import time


def least(command: list[str]) -> float:
    """Milliseconds of the fastest of ten runs."""
    found = []
    for _ in range(10):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
        found.append((time.perf_counter() - begun) * 1000)
    return min(found)


def main() -> None:
    bare = least(["-c", "pass"])
    for name, command in (
        ("import headrace", ["-c", "import headrace; headrace.App, headrace.Event"]),
        ("headrace --help", ["-m", "headrace", "--help"]),
    ):
        taken = least(command)
        line = {"row": name, "milliseconds": round(taken, 1), "over_a_bare_interpreter": round(taken - bare, 1)}
        print(json.dumps(line))


if __name__ == "__main__":
    main()
