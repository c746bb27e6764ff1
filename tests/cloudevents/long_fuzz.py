"""The long run of the fuzzer: a million mutated inputs, each held to its time and memory.

python -m tests.cloudevents.long_fuzz --seed 1 [--inputs 1000000]
"""

import argparse
import time

from tests.cloudevents.fuzz import run, targets


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seed", type=int, required=True)
    arguments.add_argument("--inputs", type=int, default=1_000_000)
    options = arguments.parse_args()
    started = time.perf_counter()
    outcomes = run(options.seed, options.inputs, measured=True)
    seconds = time.perf_counter() - started
    print(
        f"seed {options.seed}: {options.inputs} inputs to {len(targets())} decoders, {outcomes['read']} read, "
        f"{outcomes['refused']} refused, nothing else; {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
