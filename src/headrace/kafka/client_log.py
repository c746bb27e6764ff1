"""What librdkafka itself logs: its clients try an absent broker several times a second, and each try is a line."""

from __future__ import annotations

import logging
import re
import time
from typing import Final

__all__ = ["client_log"]

#: Seconds within which the same client says the same kind of thing once.
_SELDOM: Final = 30.0
#: The kind (``FAIL``, ``REQTMOUT``) and the client's name.
_ABOUT = re.compile(r"\w+ \[[^\]]*\]")


class _Seldom(logging.Filter):
    """Lets a kind of message of one client pass once in a while."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO:
            return True
        about = _ABOUT.match(record.getMessage())
        if about is None:
            return True
        now = time.monotonic()
        if now - self._passed.get(about[0], now - _SELDOM) < _SELDOM:
            return False
        if len(self._passed) > 1000:
            self._passed.clear()
        self._passed[about[0]] = now
        return True


client_log: Final = logging.getLogger("headrace.kafka.client")
"""Given to every client as its logger."""
client_log.addFilter(_Seldom())
