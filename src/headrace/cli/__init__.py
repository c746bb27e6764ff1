"""The command line. Its help comes without the machinery that parses commands, so that it is quick."""

import sys

__all__ = ["main"]


def main() -> None:
    """The console script."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        from headrace.cli.overview import overview

        sys.stdout.write(overview())
        return
    from headrace.cli.group import invoke

    sys.exit(invoke())
