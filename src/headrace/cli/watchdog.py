"""A thread that watches the event loop: stalled past the handlers' timeout, the process ends with 70, its stack logged.

A handler that blocks the loop for good would otherwise keep everything: no deadline can fire, nothing is extended, the
probes stand still. The restart finds what ran as a suspect. The thread also ends a worker whose supervisor is gone.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback

__all__ = ["Watchdog"]

log = logging.getLogger("headrace")

#: Seconds past the longest timeout until a stalled loop ends the process, and for which its last words may take.
PATIENCE, LAST_WORDS = 10.0, 10.0
TICK = 1.0
EXIT_CODE = 70


class Watchdog:
    """Started in the running loop.

    Args:
        timeout: the longest timeout of a handler, in seconds.
        lifeline: a pipe that reads as ended when the supervisor is gone, or ``None``.
    """

    def __init__(self, timeout: float, lifeline: int | None = None) -> None:
        self._limit = timeout + PATIENCE
        self._lifeline = lifeline
        self._loop = asyncio.get_running_loop()
        self._main = threading.get_ident()
        self._beats = 0
        self._stopped = threading.Event()
        self._timer = self._loop.call_later(TICK, self._beat)
        threading.Thread(target=self._watch, name="headrace-watchdog", daemon=True).start()

    def _beat(self) -> None:
        self._beats += 1
        self._timer = self._loop.call_later(TICK, self._beat)

    def stop(self) -> None:
        """The loop ends by itself."""
        self._timer.cancel()
        self._stopped.set()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        seen, stalled, armed = -1, 0.0, float("-inf")
        while not self._stopped.is_set():
            before = time.monotonic()
            if armed + 5.0 < before and not stalled:
                # Should C code hold the interpreter's lock for good, this thread cannot run; the C library's timer can.
                faulthandler.dump_traceback_later(self._limit + 5.0 + LAST_WORDS, exit=True)
                armed = before
            if self._lifeline is None:
                self._stopped.wait(TICK)
            elif select.select([self._lifeline], [], [], TICK)[0] and not os.read(self._lifeline, 1):
                os.kill(os.getpid(), signal.SIGKILL)
            if self._beats != seen:
                seen, stalled = self._beats, 0.0
                continue
            # A process that was stopped and goes on did not stall: no tick counts for more than two.
            stalled += min(time.monotonic() - before, 2 * TICK)
            if stalled > self._limit:
                self._bite(stalled)

    def _bite(self, stalled: float) -> None:
        faulthandler.dump_traceback_later(LAST_WORDS, exit=True)
        frame = sys._current_frames().get(self._main)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)"
        log.critical(
            "the event loop has been stalled for %.0f s, longer than any handler may take; the process ends. It is in:\n%s",
            stalled,
            stack,
        )
        logging.shutdown()
        os._exit(EXIT_CODE)
