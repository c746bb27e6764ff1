"""The Kubernetes rows: an informer on a real API server beside kopf and a bare list-and-watch loop, in one run.

Row ``informer``: 10,000 pods are listed, then 1,000 of them change at 100 a second; CPU seconds and memory of each peer's
processes, one peer after the other. Row ``latency``: 50 changes a second, seen by Headrace and by the bare loop at once; from
the moment a change was asked for to the handler, each change compared with itself.
``--pods N``, ``--rounds N``, ``--rows informer,latency``. Every peer must have seen every change, or the row fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from benchmarks.kubernetes_load import Load
from tests.servers.apiserver import ADMIN, ApiServer

HERE = Path(__file__).parent
BENCH = Path(".bench-venv/bin")
TICK = os.sysconf("SC_CLK_TCK")
MEBIBYTE = 1 << 20
#: Seconds in which a peer must have counted what it is waited for.
PATIENCE = 180.0
#: Changes in the informer row, and how many a second.
CHANGES, RATE = 1_000, 100.0
#: Changes in the latency row, and how many a second; the first ones warm up.
TIMED, WARM, TIMED_RATE = 1_500, 100, 50.0


class Use(NamedTuple):
    """Of a process and all below it. ``cpu``: seconds; ``memory``, ``peak``: MiB resident, now and at most, pages that
    processes share counted for each; ``proportional``: MiB with such pages counted once."""

    cpu: float
    memory: float
    proportional: float
    peak: float


class Peer:
    """One process that watches, by its name in the report."""

    def __init__(self, name: str, command: list[str], server: ApiServer, counts: list[int], folder: Path) -> None:
        self.name = name
        self.arrivals = folder / f"{name}.json"
        environment = {
            # Compiled modules are kept, as they are where packages are installed.
            **{
                key: value
                for key, value in os.environ.items()
                if not key.startswith("HEADRACE_") and key != "PYTHONDONTWRITEBYTECODE"
            },
            "KUBECONFIG": str(server.kubeconfig),
            "HEADRACE_ADMIN": "127.0.0.1:0",
            "NAMESPACE": "bench",
            "COUNTS": ",".join(map(str, counts)),
        }
        if len(counts) > 2:
            environment["ARRIVALS"] = str(self.arrivals)
        self._errors = (folder / f"{name}.stderr").open("w+")
        own = folder / name
        own.mkdir()
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=own
        )

    def until(self, count: int) -> None:
        """Wait until it has counted so far."""
        assert self._process.stdout is not None
        impatience = threading.Timer(PATIENCE, self._process.kill)
        impatience.start()
        try:
            for line in self._process.stdout:
                if line.strip() == str(count):
                    return
        finally:
            impatience.cancel()
        self._errors.seek(0)
        raise RuntimeError(f"{self.name} ended before it had counted {count}: {self._errors.read()[-2000:]}")

    def use(self) -> Use:
        cpu = memory = proportional = peak = 0.0
        for pid in self._family():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu += (int(fields[11]) + int(fields[12])) / TICK
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS"):
                    memory += int(line.split()[1]) * 1024 / MEBIBYTE
                elif line.startswith("VmHWM"):
                    peak += int(line.split()[1]) * 1024 / MEBIBYTE
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    proportional += int(line.split()[1]) * 1024 / MEBIBYTE
        return Use(cpu, memory, proportional, peak)

    def _family(self) -> list[int]:
        found = [self._process.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found.extend(int(child) for child in children.read_text().split())
        return found

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


def commands(server: ApiServer) -> dict[str, list[str]]:
    """How each peer is started."""
    found = {
        "headrace": [sys.executable, "-m", "headrace", "run", str(HERE / "kubernetes_app.py")],
        "bare loop": [
            sys.executable, str(HERE / "kubernetes_loop.py"), server.url, str(server.certificate), ADMIN,
        ],
    }  # fmt: skip
    if (BENCH / "kopf").exists():
        script = str(HERE / "peers" / "kopf_pods.py")
        found["kopf"] = [str((BENCH / "kopf").absolute()), "run", "-q", "--standalone", "-n", "bench", script]
    return found


def row_informer(server: ApiServer, pods: int, rounds: int) -> None:
    """CPU and memory of each peer in turn."""
    changes = min(CHANGES, pods)
    found: dict[str, list[dict[str, float]]] = {}
    for turn in range(rounds):
        for name, command in commands(server).items():
            with tempfile.TemporaryDirectory() as folder:
                peer = Peer(name, command, server, [pods, pods + changes], Path(folder))
                try:
                    peer.until(pods)
                    time.sleep(2)  # whatever it still does with the list (a checkpoint) belongs to the list
                    listed = peer.use()
                    first = turn * changes % pods
                    rate = asyncio.run(change(server, range(first, first + changes), RATE))
                    peer.until(pods + changes)
                    time.sleep(2)
                    changed = peer.use()
                finally:
                    peer.close()
            found.setdefault(name, []).append(
                {
                    "cpu_listed": listed.cpu,
                    "cpu_per_1000_changes": (changed.cpu - listed.cpu) * 1000 / changes,
                    "memory": changed.memory,
                    "proportional": changed.proportional,
                    "peak": changed.peak,
                    "changes_a_second": rate,
                }
            )
    ours = found["headrace"]
    for name, uses in found.items():
        line: dict[str, object] = {"row": f"{pods} pods listed, then {RATE:g} changes a second", "peer": name}
        for what in uses[0]:
            if what == "changes_a_second":
                line[what] = round(statistics.median(use[what] for use in uses), 1)
                continue
            line[what] = round(statistics.median(use[what] for use in uses), 2)
            ratios = [mine[what] / use[what] for mine, use in zip(ours, uses, strict=True) if use[what]]
            line[f"{what}_headrace_to_it"] = round(statistics.median(ratios), 3) if ratios else None
        print(json.dumps(line), flush=True)


def row_latency(server: ApiServer, pods: int, rounds: int) -> None:
    """From a change to the handler, beside the bare loop."""
    names = ("headrace", "bare loop")
    rates: list[float] = []
    over: dict[str, list[float]] = {"p50": [], "p99": []}
    each: dict[str, dict[str, list[float]]] = {name: {"p50": [], "p99": []} for name in names}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            chosen = commands(server)
            total = pods + TIMED
            peers = [Peer(name, chosen[name], server, [1, pods, total], Path(folder)) for name in names]
            try:
                for peer in peers:
                    peer.until(pods)
                time.sleep(2)
                begun: dict[str, float] = {}
                numbers = [n % pods for n in range(TIMED)]
                rates.append(asyncio.run(change(server, numbers, TIMED_RATE, begun)))
                for peer in peers:
                    peer.until(total)
                arrivals = {peer.name: json.loads(peer.arrivals.read_text()) for peer in peers}
            finally:
                for peer in peers:
                    peer.close()
        timed = list(begun)[WARM:]
        delays = {name: sorted((arrivals[name][one] - begun[one]) * 1000 for one in timed) for name in names}
        later = sorted((arrivals["headrace"][one] - arrivals["bare loop"][one]) * 1000 for one in timed)
        for at, quantile in (("p50", 0.5), ("p99", 0.99)):
            for name in names:
                each[name][at].append(delays[name][int(len(timed) * quantile)])
            over[at].append(later[int(len(timed) * quantile)])
    for name in names:
        line = {f"{at}_ms": round(statistics.median(values), 3) for at, values in each[name].items()}
        line["changes_a_second"] = round(statistics.median(rates), 1)
        print(json.dumps({"row": "change to handler", "peer": name, **line}), flush=True)
    line = {f"{at}_ms": round(statistics.median(values), 3) for at, values in over.items()}
    print(json.dumps({"row": "headrace over the bare loop", **line}), flush=True)


async def change(
    server: ApiServer, numbers: range | list[int], rate: float, begun: dict[str, float] | None = None
) -> float:
    async with Load(server.url, str(server.certificate), ADMIN) as load:
        return await load.change(numbers, rate, begun)


async def fill(server: ApiServer, pods: int) -> None:
    async with Load(server.url, str(server.certificate), ADMIN) as load:
        await load.create(pods)


ROWS = {"informer": row_informer, "latency": row_latency}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(ROWS))
    options = parser.parse_args()
    server = ApiServer().start()
    try:
        asyncio.run(fill(server, options.pods))
        for row in options.rows.split(","):
            ROWS[row](server, options.pods, options.rounds)
    finally:
        server.close()
    names = ("aiohttp", "msgspec", "uvloop")
    versions = {name: version(name) for name in names}
    if (BENCH / "python").exists():
        script = "from importlib.metadata import version; print(version('kopf'))"
        versions["kopf"] = subprocess.check_output([str(BENCH / "python"), "-c", script], text=True).strip()
    print(json.dumps({"versions": versions}))


if __name__ == "__main__":
    main()
