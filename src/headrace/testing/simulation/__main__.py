"""``python -m headrace.testing.simulation FIRST [LAST]``: run seeds; the exit code tells whether every rule held."""

import sys
import time

from headrace.testing.simulation import simulate


def main() -> int:
    first = int(sys.argv[1])
    last = int(sys.argv[2]) if len(sys.argv) > 2 else first
    begun = time.monotonic()
    failed = 0
    for seed in range(first, last + 1):
        report = simulate(seed)
        if not report.ok:
            failed += 1
            sys.stdout.write(report.fault + "\n")
    sys.stdout.write(f"{last - first + 1} seeds, {failed} failed, {time.monotonic() - begun:.1f} s\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
