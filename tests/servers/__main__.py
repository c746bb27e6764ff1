"""``python -m tests.servers NAME`` starts one empty server in the foreground; ``--fetch`` brings what servers need.

Standard output gets exactly one line, JSON: ``name``, ``url`` and, for Kubernetes, ``kubeconfig``. All else goes to standard
error. SIGTERM and SIGINT end the server and remove its data within 5 s.
"""

import argparse
import json
import signal
import sys
import threading
import time
from types import FrameType

from tests.servers.catalog import NAMES, server_class
from tests.servers.process import ServerError, Unavailable
from tests.servers.server import tell

_TOOLS = ("promtool",)


class _Asked(BaseException):
    """A signal came while the server was being fetched or started."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join((*NAMES, *_TOOLS)))
    parser.add_argument("--fetch", action="store_true", help="only bring what the servers (all by default) need")
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(NAMES) - (set(_TOOLS) if chosen.fetch else set())
    if unknown:
        parser.error(f"no server {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if chosen.fetch:
        return fetch(chosen.names or [*NAMES, *_TOOLS])
    if len(chosen.names) != 1:
        parser.error("give one name")
    return serve(chosen.names[0])


def fetch(names: list[str]) -> int:
    """Bring what ``names`` need; 1 where something cannot be had, after trying everything."""
    code = 0
    for name in names:
        began = time.monotonic()
        try:
            _fetch_one(name)
        except (Unavailable, ServerError) as error:
            tell(f"{name}: {error}")
            code = 1
        else:
            tell(f"{name}: there ({time.monotonic() - began:.1f} s)")
    return code


def _fetch_one(name: str) -> None:
    if name == "promtool":
        from tests.servers.prometheus import promtool

        promtool()
    else:
        server_class(name).fetch()


def serve(name: str) -> int:
    """Run one server until a signal comes; 0 then, 1 where it did not start or ended by itself."""
    asked = threading.Event()

    def while_starting(number: int, frame: FrameType | None) -> None:
        raise _Asked

    def while_serving(number: int, frame: FrameType | None) -> None:
        asked.set()

    def handle(handler: "signal._HANDLER") -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handler)

    handle(while_starting)
    server = None
    try:
        server = server_class(name)()
        server.start()
        handle(while_serving)
        print(json.dumps(server.description()), flush=True)
        tell(f"{name} ready after {server.ready_seconds:.2f} s, data in {server.folder}")
        while not asked.wait(0.5):
            if not server.alive:
                tell(f"{name} ended by itself\n{server.log()}")
                return 1
    except _Asked:
        return 0
    except (Unavailable, ServerError) as error:
        tell(f"{name}: {error}")
        return 1
    finally:
        handle(signal.SIG_IGN)
        if server is not None:
            server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
