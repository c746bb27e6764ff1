"""What code inside a handler can know about its delivery, and how its coroutine is started and carried on.

Each attempt runs in a context of its own, a copy of the app's, entered for every step of the handler's coroutine. So no
context variable leaks from one event to another, the current task stays the worker (``asyncio.timeout`` and friends
work), and a handler that never suspends costs no task.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

from headrace.engine.signature import DataCall

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery

__all__ = ["call_plain", "carry_on", "current", "first_step"]

#: The delivery whose attempt is running here, tasks made by the handler included.
current: ContextVar[Delivery] = ContextVar("headrace_delivery")


def first_step(call: Callable[[Delivery], Any]) -> Callable[[Delivery], Any]:
    """Start the handler's coroutine and run it up to where it first waits. ``StopIteration`` carries its result."""
    set_current = current.set

    # The coroutine is kept only where it goes on: one that never waits is gone before the next one is made.
    if isinstance(call, DataCall):
        function = call.function

        def with_data(delivery: Delivery) -> Any:
            set_current(delivery)
            coroutine = function(delivery._data)
            waiting = coroutine.send(None)
            delivery._run = coroutine
            return waiting

        return with_data

    def with_delivery(delivery: Delivery) -> Any:
        set_current(delivery)
        coroutine = call(delivery)
        waiting = coroutine.send(None)
        delivery._run = coroutine
        return waiting

    return with_delivery


def call_plain(call: Callable[[Delivery], Any], delivery: Delivery) -> Any:
    """Run a plain function to its end, in a thread; what a generator yields is its result."""
    current.set(delivery)
    result = call(delivery)
    return list(result) if inspect.isgenerator(result) else result


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
