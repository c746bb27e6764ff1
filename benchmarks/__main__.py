"""``make bench``: each row of the performance page beside its peers, one dated result file.

Rows run one after the other, each in a process of its own, so that none disturbs another. ``--rows a,b`` picks some.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
ROWS = {
    "engine": ["benchmarks.engine"],
    "ledger": ["benchmarks.engine", "--store", "sqlite:///{folder}/ledger.db", "--events", "60000"],
    "stores": ["benchmarks.ledgers"],
    "waiting": ["benchmarks.waiting"],
    "jetstream": ["benchmarks.jetstream"],
    "kafka": ["benchmarks.kafka"],
    "kubernetes": ["benchmarks.kubernetes"],
    "http": ["benchmarks.http_receiver"],
    "cloudevents": ["benchmarks.cloudevents"],
    "startup": ["benchmarks.startup"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=",".join(ROWS))
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    lines = [
        {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": commit.stdout.strip(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "python": platform.python_version(),
            # What else the machine did: above its cores, only ratios within a row and CPU times mean something.
            "load_average": round(os.getloadavg()[0], 1),
        }
    ]
    failed = False
    for row in options.rows.split(","):
        print(f"== {row}", file=sys.stderr, flush=True)

        with tempfile.TemporaryDirectory() as folder:
            command = [part.format(folder=folder) for part in ROWS[row]]
            done = subprocess.run([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, end="", flush=True)
        failed = failed or done.returncode != 0
        for line in done.stdout.splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append({"row": row, "text": line})
    lines.append({"load_average_at_the_end": round(os.getloadavg()[0], 1)})
    path = RESULTS / f"{datetime.date.today().isoformat()}.jsonl"
    with path.open("a") as file:
        for entry in lines:
            file.write(json.dumps(entry) + "\n")
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
