"""Compiles registrations to handlers, once, at start-up. Every error names the handler and what to change."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.engine.handler import Handler
from headrace.engine.keys import compile_identity, compile_key
from headrace.engine.signature import resolve
from headrace.engine.source import Credit
from headrace.errors import ConfigurationError, InvalidFilter
from headrace.naming import check_name
from headrace.policy import Retry
from headrace.router import Registration
from headrace.settings import Settings

__all__ = ["Compiled", "compile_all"]


@dataclass(slots=True, kw_only=True)
class Compiled:
    """A handler, and where its events come from: a ``channel`` or a ``declaration``."""

    handler: Handler
    registration: Registration
    channel: str
    declaration: Any
    start: str

    @property
    def needs_broker(self) -> bool:
        """Whether the handler reads or publishes to a channel."""
        return bool(self.channel) or isinstance(self.handler.publishes, str)

    @property
    def receives(self) -> bool:
        """Whether its source takes HTTP requests."""
        return hasattr(self.declaration, "path")

    @property
    def buries(self) -> bool:
        """Whether it may have dead letters, so that it needs a replay channel: a sender who waits is told instead."""
        return not self.receives or getattr(self.declaration, "mode", "") == "durable"


def compile_all(
    app: str,
    registrations: Sequence[Registration],
    settings: Settings,
    *,
    functions: Mapping[str, Sequence[Callable[..., Any]]] | None = None,
) -> list[Compiled]:
    """Compile every handler; ``functions`` are those that expressions of filters may call.

    Raises `ConfigurationError` or `InvalidFilter` for the first that cannot be.
    """
    compiled: list[Compiled] = []
    seen: set[str] = set()
    for registration in registrations:
        name = registration.name
        check_name(name, "handler")
        if name in seen:
            raise ConfigurationError(f"two handlers are named {name!r}; give one of them another name with name=…")
        seen.add(name)
        compiled.append(_compile(app, registration, settings, functions or {}))
    return compiled


def _compile(
    app: str, registration: Registration, settings: Settings, functions: Mapping[str, Sequence[Callable[..., Any]]]
) -> Compiled:
    name = registration.name
    if not callable(registration.function):
        raise ConfigurationError(f"handler {name!r}: {registration.function!r} cannot be called")
    signature = resolve(registration.function, name)
    concurrency = _positive(name, "concurrency", registration.concurrency, 64)
    timeout = _positive(name, "timeout", registration.timeout, 30.0)
    if registration.ack not in ("last", "first"):
        raise ConfigurationError(f'handler {name!r}: ack={registration.ack!r} is neither "last" nor "first"')
    idempotent = registration.idempotent
    if not isinstance(idempotent, bool) and not callable(idempotent):
        raise ConfigurationError(
            f"handler {name!r}: idempotent={idempotent!r} is neither True nor False, nor a function that names an event"
        )
    if inspect.iscoroutinefunction(idempotent):
        raise ConfigurationError(
            f"handler {name!r}: the idempotent function cannot be async; it is called for each event"
        )
    retry = registration.retry or Retry()
    if not isinstance(retry, Retry):
        raise ConfigurationError(f"handler {name!r}: retry={retry!r} is no Retry(…)")
    if registration.publish_key is not None and registration.publishes is None:
        raise ConfigurationError(
            f"handler {name!r}: publish_key= is the key of what publishes= names, which is not given"
        )
    key = _key(name, "key", registration.key, signature.decode is not None)
    source = registration.source
    channel = source if isinstance(source, str) else ""
    if not channel and not hasattr(source, "bind"):
        raise ConfigurationError(
            f"handler {name!r}: {source!r} is no source; give a channel name or a source such as headrace.nats.Stream(…)"
        )
    publishes = registration.publishes
    if publishes is not None and not isinstance(publishes, str) and not hasattr(publishes, "sink"):
        raise ConfigurationError(f"handler {name!r}: publishes={publishes!r} is neither a channel name nor a sink")
    prefetch = settings["prefetch"] or 4 * concurrency
    keyed = key is not None or bool(getattr(source, "default_lane", ""))
    handler = Handler(
        app=app,
        name=name,
        signature=signature,
        key=key,
        accept=_filter(name, registration.filters, functions),
        retry=retry,
        order=retry.order or ("hold" if keyed else "release"),
        timeout=float(timeout),
        concurrency=int(concurrency),
        prefetch=Credit(int(prefetch), settings["prefetch_bytes"]),
        parked=Credit(settings["parked"], settings["parked_bytes"]),
        idempotent=bool(idempotent) and registration.ack == "last",
        identify=compile_identity(idempotent) if callable(idempotent) else None,
        publishes=publishes,
        publish_type=publishes if isinstance(publishes, str) else getattr(publishes, "name", ""),
        publish_key=_key(name, "publish_key", registration.publish_key, True),
        ack_first=registration.ack == "first",
    )
    return Compiled(
        handler=handler,
        registration=registration,
        channel=channel,
        declaration=None if channel else source,
        start=registration.start or "earliest",
    )


def _key(handler: str, parameter: str, key: Any, typed: bool) -> Callable[[Any, Any], str] | None:
    if key is None:
        return None
    if not callable(key) and (not isinstance(key, str) or not all(key.removeprefix("@").split("."))):
        raise ConfigurationError(
            f'handler {handler!r}: {parameter}={key!r} is no key; it is a field of the data ("customer", "customer.id"), '
            'an attribute ("@subject") or a function of the event'
        )
    return compile_key(key, typed)


def _positive(handler: str, parameter: str, value: Any, default: Any) -> Any:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise ConfigurationError(f"handler {handler!r}: {parameter}={value!r} must be a number above 0")
    return value


def _filter(
    handler: str, given: Sequence[Mapping[str, Any]], functions: Mapping[str, Any]
) -> Callable[[Any], bool] | None:
    if not given:
        return None
    try:
        from headrace.cloudevents import filters

        return filters.compile([dict(one) for one in given], functions=functions)
    except InvalidFilter as error:
        raise InvalidFilter(f"handler {handler!r}: filters: {error}") from error
