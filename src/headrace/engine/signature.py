"""Resolves a handler's parameters by annotation, once, at start-up.

A parameter is the `Event`, the `Delivery`, a store transaction, or the one data parameter that is decoded straight from
bytes to its annotation. Whatever cannot be resolved is a `ConfigurationError` that names the handler and the parameter.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from headrace.cloudevents.data import decoder
from headrace.engine.delivery import Delivery
from headrace.errors import ConfigurationError, Reject
from headrace.event import Event

__all__ = ["DataCall", "Signature", "resolve"]

#: Outputs that one event may yield; they are collected before the first is published.
OUTPUT_LIMIT = 10_000

#: Annotations that ask for a store transaction, by module and name, so that no driver is imported to compare them.
TRANSACTIONS = {
    ("headrace.engine.transactions", "Transaction"),
    ("psycopg", "AsyncConnection"),
    ("psycopg.connection_async", "AsyncConnection"),
}


class DataCall:
    """The commonest shape, a function of the decoded data alone. Who starts attempts may call ``function`` without this step."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, delivery: Delivery) -> Any:
        return self.function(delivery._data)


@dataclass(frozen=True, slots=True)
class Signature:
    """How to call a handler.

    ``decode`` makes the data value of an event, or is ``None`` where the handler takes none; ``wants_bytes`` says that it is
    the plain bytes. ``call`` takes a delivery whose ``_data`` is set and returns what the function returns (a coroutine for
    ``is_async``). ``transaction`` is the annotation of a transaction parameter, passed as ``_transaction`` of the delivery.
    """

    call: Callable[[Delivery], Any]
    is_async: bool
    decode: Callable[[Event], Any] | None
    wants_bytes: bool
    transaction: type | None


def resolve(function: Callable[..., Any], handler: str) -> Signature:
    """Resolve every parameter of a handler.

    Raises `ConfigurationError` naming the handler and the parameter.
    """
    if inspect.isasyncgenfunction(function):
        is_async = True
    else:
        is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - the coroutine function of a callable object
        )
    try:
        parameters = inspect.signature(function).parameters
        target = function if inspect.isroutine(function) else type(function).__call__
        hints = typing.get_type_hints(target)
    except (NameError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"handler {handler!r}: its annotations cannot be read ({error}); "
            "annotate with names that are importable where the handler is defined"
        ) from error

    positional: list[str] = []
    keyword: list[tuple[str, str]] = []
    decode: Callable[[Event], Any] | None = None
    data_name = ""
    wants_bytes = False
    transaction: type | None = None
    for parameter in parameters.values():
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigurationError(
                f"handler {handler!r}: parameter {name!r} collects arguments; name each parameter and annotate it"
            )
        wanted = hints.get(name, parameter.annotation)
        if wanted is Event:
            attribute = "event"
        elif wanted is Delivery:
            attribute = ""
        elif _is_transaction(wanted):
            attribute, transaction = "_transaction", typing.get_origin(wanted) or wanted
            if not is_async:
                raise ConfigurationError(
                    f"handler {handler!r}: parameter {name!r} is a transaction, whose calls are awaited; "
                    "write the handler as async def"
                )
        elif wanted is parameter.empty and parameter.default is not parameter.empty:
            continue
        elif data_name:
            raise ConfigurationError(
                f"handler {handler!r}: parameter {name!r} is a second data parameter beside {data_name!r}; "
                "annotate it as Event or Delivery, or take one type that holds both"
            )
        else:
            data_name = name
            attribute = "_data"
            wanted = Any if wanted is parameter.empty else wanted
            wants_bytes = wanted is bytes
            try:
                decode = decoder(wanted)
            except ConfigurationError as error:
                raise ConfigurationError(f"handler {handler!r}: parameter {name!r}: {error}") from error
        if parameter.kind is parameter.KEYWORD_ONLY:
            keyword.append((name, attribute))
        else:
            positional.append(attribute)
    if inspect.isasyncgenfunction(function):
        function = _collected(function)
    return Signature(_caller(function, positional, keyword), is_async, decode, wants_bytes, transaction)


def _collected(generate: Callable[..., Any]) -> Callable[..., Any]:
    """An async generator as a coroutine function: outputs are complete before the first is published."""

    async def collect(*positional: Any, **named: Any) -> list[Any]:
        outputs: list[Any] = []
        async for output in generate(*positional, **named):
            if len(outputs) == OUTPUT_LIMIT:
                raise Reject(f"the handler yielded more than {OUTPUT_LIMIT} outputs for one event")
            outputs.append(output)
        return outputs

    return collect


def _is_transaction(wanted: Any) -> bool:
    origin = typing.get_origin(wanted) or wanted
    return (getattr(origin, "__module__", ""), getattr(origin, "__qualname__", "")) in TRANSACTIONS


def _caller(
    function: Callable[..., Any], positional: list[str], keyword: list[tuple[str, str]]
) -> Callable[[Delivery], Any]:
    """The cheapest closure for the shape: most handlers take one or two positional parameters."""
    if not keyword:
        if positional == ["_data"]:
            return DataCall(function)
        if positional == ["event"]:
            return lambda delivery: function(delivery.event)
        if not positional:
            return lambda delivery: function()
        if positional == [""]:
            return function
        if len(positional) > 1 and "" not in positional:
            several = attrgetter(*positional)
            return lambda delivery: function(*several(delivery))
    read = [_reader(attribute) for attribute in positional]
    named = [(name, _reader(attribute)) for name, attribute in keyword]

    def call(delivery: Delivery) -> Any:
        return function(*[get(delivery) for get in read], **{name: get(delivery) for name, get in named})

    return call


def _reader(attribute: str) -> Callable[[Delivery], Any]:
    return attrgetter(attribute) if attribute else lambda delivery: delivery
