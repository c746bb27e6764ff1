"""``HEADRACE_FAIL_POINT=claimed:40``: the process kills itself (SIGKILL) at the 40th passing of that point.

Points are passed once an event, also where the runtime works in batches. Where the variable is not set, `passing` gives
``None`` and the place costs one comparison.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from headrace.errors import ConfigurationError

__all__ = ["POINTS", "passing"]

POINTS = (
    "received",
    "claimed",
    "handled",
    "published",
    "marked",
    "settled",
    "flushed",
    "deadlettered",
    "parked",
    "committed",
    "relayed",
    "checkpointed",
)


def passing(point: str) -> Callable[[int], None] | None:
    """A function to call with the number of events that pass ``point``, or ``None`` where this point is not set."""
    setting = os.environ.get("HEADRACE_FAIL_POINT", "")
    if not setting:
        return None
    name, _, count = setting.partition(":")
    if name not in POINTS or (count and not count.isdigit()):
        raise ConfigurationError(
            f"HEADRACE_FAIL_POINT={setting!r} names no fail point; it is one of {', '.join(POINTS)}, then a colon and a count"
        )
    if name != point:
        return None
    left = int(count or 1)

    def passed(events: int) -> None:
        nonlocal left
        left -= events
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return passed
