"""The command line. Its help comes without the machinery that parses commands, so that it is quick."""

import os
import sys

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
    from headrace.cli.group import invoke

    sys.exit(invoke())
