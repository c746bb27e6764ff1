"""What code inside a handler can know about its delivery, and how a started coroutine is carried on.

Each attempt runs in a context of its own, a copy of the app's, entered for every step of the handler's coroutine. So no
context variable leaks from one event to another, the current task stays the worker (``asyncio.timeout`` and friends
work), and a handler that never suspends costs no task.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery

__all__ = ["carry_on", "current"]

#: The delivery whose attempt is running here, tasks made by the handler included.
current: ContextVar[Delivery] = ContextVar("headrace_delivery")


@types.coroutine
def carry_on(context: Context, coroutine: Coroutine[Any, Any, Any], waiting: Any) -> Generator[Any, Any, Any]:
    """Await a coroutine that has already yielded ``waiting``, each further step inside its context.

    A cancellation of the task is thrown into the coroutine, which may handle it.
    """
    run = context.run
    send = coroutine.send
    while True:
        try:
            value = yield waiting
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:  # noqa: BLE001 - thrown on into the handler, which decides
            step: Any = coroutine.throw
            argument: Any = error
        else:
            step, argument = send, value
        try:
            waiting = run(step, argument)
        except StopIteration as stop:
            return stop.value
