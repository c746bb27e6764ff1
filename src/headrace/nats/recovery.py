"""Restores what a source reads from, one attempt after another, for as long as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from headrace.errors import StoreUnavailable
from headrace.nats.api import ApiError
from headrace.nats.requests import Silent

if TYPE_CHECKING:
    from headrace.nats.standing import Standing

__all__ = ["Recovery"]

log = logging.getLogger("headrace.nats")

#: Seconds between attempts, growing to the second number.
_PAUSE: Final = (0.05, 5.0)
#: Seconds that an attempt may take, growing to the second number: a question that a dying leader swallowed is asked again soon.
_PATIENCE: Final = (1.0, 20.0)


class Recovery:
    """That of one source.

    Parameters:
        name: the source's, for the log. standing: where health reads what is amiss.
        restore: one attempt. Raises `ApiError`, `Silent` or `StoreUnavailable` where another one may do better, something else
            where none will.
        ended: called at the end, with the error that no attempt mends or ``None``.
    """

    def __init__(
        self,
        name: str,
        standing: Standing,
        *,
        restore: Callable[[], Awaitable[None]],
        ended: Callable[[Exception | None], None],
    ) -> None:
        self._name = name
        self._standing = standing
        self._restore = restore
        self._ended = ended
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether it has begun and not ended."""
        return self._task is not None

    def begin(self, why: str) -> None:
        """Begin. ``why``: what is amiss, in a few words."""
        log.warning("%s: %s; looking after it", self._name, why)
        self._task = asyncio.get_running_loop().create_task(self._run(why))

    async def _run(self, why: str) -> None:
        pause, patience = _PAUSE[0], _PATIENCE[0]
        beyond: Exception | None = None
        try:
            while True:
                try:
                    async with asyncio.timeout(patience):
                        await self._restore()
                    self._standing.detail = ""
                    return
                except (Silent, ApiError, StoreUnavailable, TimeoutError) as error:
                    self._standing.detail = f"{why}; {str(error) or 'JetStream does not answer'}"
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _PAUSE[1])
                    patience = min(patience * 1.5, _PATIENCE[1])
        except Exception as error:  # noqa: BLE001 - the source fails of it, in the open; a defect among them
            beyond = error
        finally:
            self._task = None
            self._ended(beyond)

    async def close(self) -> None:
        """End it, wherever it is."""
        task = self._task
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
