"""The long run of round trips: any event, every binding, every mode.

python -m tests.cloudevents.long_roundtrips --seed 1 [--examples 10000]
"""

import argparse
import time

from hypothesis import HealthCheck, Phase, given, seed, settings

from headrace import Event
from tests.cloudevents.events import events
from tests.cloudevents.roundtrips import PATHS, check


def run(chosen: int, examples: int) -> int:
    """Send so many events along every path; returns how many there were."""
    count = 0

    @seed(chosen)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(event=events())
    def every_path(event: Event) -> None:
        nonlocal count
        for path in PATHS:
            check(event, path)
        count += 1

    every_path()
    return count


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seed", type=int, required=True)
    arguments.add_argument("--examples", type=int, default=10_000)
    options = arguments.parse_args()
    started = time.perf_counter()
    count = run(options.seed, options.examples)
    seconds = time.perf_counter() - started
    print(f"seed {options.seed}: {count} events × {len(PATHS)} paths survived, {seconds:.0f} s")


if __name__ == "__main__":
    main()
