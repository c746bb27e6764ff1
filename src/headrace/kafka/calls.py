"""What the loop has the poll thread do with the consumer.

The client lets one thread in at a time, and a thread that polls again at once would keep any other out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from headrace.errors import ConnectionFailed

__all__ = ["Calls"]

T = TypeVar("T")


class Calls:
    """Those of one consumer, in order. ``wake``: called after each addition, to let the poll thread look."""

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self._name = name
        self._wake = wake
        self._queue: deque[tuple[Callable[[Any], Any], Future[Any]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def add(self, function: Callable[[Any], T]) -> Future[T]:
        """Have the poll thread call ``function(consumer)``, soon."""
        future: Future[T] = Future()
        self._queue.append((function, future))
        self._wake()
        return future

    def serve(self, consumer: Any) -> None:
        """Make the calls. Without a consumer they fail: the group has been left."""
        while True:
            try:
                function, future = self._queue.popleft()
            except IndexError:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if consumer is None:
                    raise ConnectionFailed(f"{self._name}: the group has been left")
                result = function(consumer)
            except Exception as error:  # noqa: BLE001 - it belongs to who asked
                future.set_exception(error)
            else:
                future.set_result(result)
