"""Groups handlers. An `App` is a router itself; other routers are included in it, as web frameworks do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from headrace.engine.keys import Key
    from headrace.engine.sink import SinkDeclaration
    from headrace.engine.source import Declaration
    from headrace.event import Event
    from headrace.policy import Retry

__all__ = ["Registration", "Router"]

F = TypeVar("F", bound=Callable[..., Any])


class Registration(NamedTuple):
    """One ``@on``: the function and what was said of it, not yet checked."""

    function: Callable[..., Any]
    source: str | Declaration
    name: str
    key: Key | None
    concurrency: int | None
    retry: Retry | None
    timeout: float | None
    idempotent: bool | Callable[[Event], str]
    filters: Sequence[Mapping[str, Any]]
    publishes: str | SinkDeclaration | None
    publish_key: Key | None
    start: str | None
    ack: Literal["last", "first"]


class Router:
    """A group of handlers.

    ``router.on(...)`` registers; ``app.include_router(router)`` brings all of them into an app.
    """

    def __init__(self) -> None:
        self.registrations: list[Registration] = []

    def on(
        self,
        source: str | Declaration,
        *,
        key: Key | None = None,
        concurrency: int | None = None,
        retry: Retry | None = None,
        timeout: float | None = None,
        idempotent: bool | Callable[[Event], str] = True,
        filters: Sequence[Mapping[str, Any]] = (),
        publishes: str | SinkDeclaration | None = None,
        publish_key: Key | None = None,
        start: str | None = None,
        ack: Literal["last", "first"] = "last",
        name: str | None = None,
    ) -> Callable[[F], F]:
        """Register a handler; the decorated function stays as it is.

        Parameters:
            source: a channel (``"order.created"``) or an explicit source such as `headrace.nats.Stream`.
            key: what keeps events in order: a data field path (``"customer.id"``), ``"@name"`` for an attribute, or a
                function of the event. Without it: no order (on Kafka the record's key).
            concurrency: attempts at once (64).
            retry: what happens when it fails (`Retry`).
            timeout: seconds that one attempt may take (30).
            idempotent: whether the ledger skips events that were handled before, or a function that names the event.
            filters: CloudEvents subscription filters, all of which must match.
            publishes: channel or sink of what the function returns: a value, a list, or an async iterator of values.
            publish_key: as ``key``, read from each output.
            start: where a new consumer begins: ``"earliest"`` (default) or ``"latest"``.
            ack: ``"first"`` acknowledges before the handler runs: at most once, and a crash loses the event.
            name: the handler's name (its function's).

        What is wrong with it is told when the app starts, as a `ConfigurationError` that names the handler.
        """

        def register(function: F) -> F:
            self.registrations.append(
                Registration(
                    function=function,
                    source=source,
                    name=name or str(getattr(function, "__name__", type(function).__name__)),
                    key=key,
                    concurrency=concurrency,
                    retry=retry,
                    timeout=timeout,
                    idempotent=idempotent,
                    filters=filters,
                    publishes=publishes,
                    publish_key=publish_key,
                    start=start,
                    ack=ack,
                )
            )
            return function

        return register

    def include_router(self, router: Router) -> None:
        """Take over every handler that the router has registered so far."""
        self.registrations.extend(router.registrations)
