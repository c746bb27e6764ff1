"""The command line. Its help comes without the machinery that parses commands, so that it is quick."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False

if TYPE_CHECKING:
    from headrace.cli.supervising import Place

__all__ = ["main"]


def main() -> None:
    """The console script."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        from headrace.cli.overview import overview

        sys.stdout.write(overview())
        return
    if sys.argv[1:2] == ["run"]:
        # Until the supervisor listens to signals there is nothing to drain: an early SIGTERM ends with 0, too.
        import signal

        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
        from headrace.cli.supervising import supervise

        sys.exit(supervise(_work))
    from headrace.cli.group import invoke

    sys.exit(invoke())


def _work(place: Place) -> int:
    """One process of ``headrace run``: its command line read, then what that says."""
    from headrace.cli.group import invoke

    code = invoke(place=place)
    return code if place.task is None else place.task()
