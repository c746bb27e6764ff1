"""A watch's turns as the leader: it begins when the lease is won, and lets go at once when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from headrace.kubernetes.lease import Elector

__all__ = ["take_turns"]


async def take_turns(
    elector: Elector,
    *,
    lead: Callable[[], Coroutine[Any, Any, None]],
    give_up: Callable[[str], None],
    leave: Callable[[], Awaitable[None]],
) -> None:
    """Compete for as long as this runs.

    Args:
        lead: what a leader does; it never ends by itself.
        give_up: called with the reason the moment the lease is lost, before anything else runs.
        leave: what is left to be put away then.
    """
    elector.acquire()
    lost = asyncio.Event()

    def lose(reason: str) -> None:
        give_up(reason)
        lost.set()

    elector.lost.append(lose)
    try:
        while True:
            await elector.lead()
            lost.clear()
            leading = asyncio.ensure_future(lead())
            losing = asyncio.ensure_future(lost.wait())
            try:
                await asyncio.wait((leading, losing), return_when=asyncio.FIRST_COMPLETED)
                if leading.done():
                    leading.result()
            finally:
                for task in (leading, losing):
                    task.cancel()
                await asyncio.gather(leading, losing, return_exceptions=True)
            await leave()
    finally:
        elector.lost.remove(lose)
