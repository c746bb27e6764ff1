"""Configuration: arguments, then ``HEADRACE_*`` variables, then defaults; each value knows where it came from."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from headrace.errors import ConfigurationError

__all__ = ["SETTINGS", "Setting", "Settings", "Value", "hide_secrets"]


class Setting(NamedTuple):
    """One setting: its name, type, default and meaning; the least that a number may be, the words that a text may be. Its
    variable is ``HEADRACE_`` and the name in capitals."""

    name: str
    type: type
    default: Any
    meaning: str
    least: int = 0
    words: tuple[str, ...] = ()


SETTINGS: tuple[Setting, ...] = (
    Setting("broker", str, None, "URL of the broker behind channels: nats://, kafka:// or memory://"),
    Setting("store", str, "memory://", "URL of the store: sqlite:///, postgresql://, redis:// or memory://"),
    Setting("dead_letters", str, None, "URL of a SQL store for dead letters; default: the broker, else the store"),
    Setting("admin", str, "0.0.0.0:9464", "host:port of probes and metrics; port 0 takes a free one"),
    Setting("http", str, "0.0.0.0:8080", "host:port of the HTTP receivers; port 0 takes a free one"),
    Setting("log", str, "info", "log level", words=("debug", "info", "warning", "error", "critical")),
    Setting("concurrency", int, 512, "attempts at once over all handlers", least=1),
    Setting(
        "prefetch", int, None, "deliveries held beside the running attempts, per handler (4 x its concurrency)", least=1
    ),
    Setting("prefetch_bytes", int, 64 * 1024 * 1024, "bytes of deliveries held, per handler", least=1),
    Setting("parked", int, 10_000, "deliveries that may wait for a retry, per handler", least=1),
    Setting(
        "parked_bytes", int, 64 * 1024 * 1024, "bytes of deliveries that may wait for a retry, per handler", least=1
    ),
    Setting("breaker_failures", int, 20, "failed attempts in a row that open a handler's circuit breaker; 0: never"),
    Setting("breaker_events", int, 3, "different events among them, at least", least=1),
    Setting("drain", float, 25.0, "seconds that a drain may take"),
    Setting("ready_within", float, 10.0, "seconds to wait for broker and store at start"),
)
#: Further variables go to the transport whose name they begin with, as they are.
TRANSPORTS = ("nats", "kafka", "kubernetes", "mqtt")


class Value(NamedTuple):
    """A setting's value and where it came from: ``argument``, ``environment`` or ``default``."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of an app, resolved. ``transport`` holds what only a transport knows (``nats_creds`` …), ``origins`` where
    each of these came from."""

    values: Mapping[str, Value]
    transport: Mapping[str, str]
    origins: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name].value

    @classmethod
    def resolve(cls, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
        """Raises `ConfigurationError` naming the variable or argument whose value cannot be."""
        environment = os.environ if environment is None else environment
        values: dict[str, Value] = {}
        for setting in SETTINGS:
            variable = f"HEADRACE_{setting.name.upper()}"
            given = arguments.get(setting.name)
            if given is not None:
                values[setting.name] = Value(_checked(setting, f"App({setting.name}={given!r})", given), "argument")
            elif environment.get(variable):
                values[setting.name] = Value(_parse(setting, variable, environment[variable]), "environment")
            else:
                values[setting.name] = Value(setting.default, "default")
        known = {setting.name for setting in SETTINGS}
        for name in arguments:
            if name not in known and name.partition("_")[0] not in TRANSPORTS:
                raise ConfigurationError(f"App(…) has no setting {name!r}; the settings are {', '.join(sorted(known))}")
        transport = {name: str(value) for name, value in arguments.items() if name not in known and value is not None}
        origins = dict.fromkeys(transport, "argument")
        for variable, text in environment.items():
            name = variable.removeprefix("HEADRACE_").lower()
            if variable.startswith("HEADRACE_") and name.partition("_")[0] in TRANSPORTS:
                transport.setdefault(name, text)
                origins.setdefault(name, "environment")
        return cls(values, transport, origins)


def _parse(setting: Setting, variable: str, text: str) -> Any:
    value: Any = text
    if setting.type is not str:
        try:
            value = setting.type(text)
        except ValueError:
            value = text
    return _checked(setting, f"{variable}={text!r}", value)


def _checked(setting: Setting, given: str, value: Any) -> Any:
    """The value, if the setting can have it; ``given`` is how it was written."""
    if setting.type is str:
        if not isinstance(value, str):
            raise ConfigurationError(f"{given} is no text: {setting.meaning}")
        if setting.words and value.lower() not in setting.words:
            raise ConfigurationError(f"{given} is not one of {', '.join(setting.words)}: {setting.meaning}")
        return value
    kinds = (int,) if setting.type is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        kind = "a whole number" if setting.type is int else "a number"
        raise ConfigurationError(f"{given} is not {kind}: {setting.meaning}")
    if value < setting.least:
        raise ConfigurationError(f"{given} is below {setting.least}: {setting.meaning}")
    return value


def hide_secrets(url: str) -> str:
    """The URL with its password, and every query value, as ``***``."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    host = parts.netloc
    if "@" in host:
        account, _, host = host.rpartition("@")
        user = account.partition(":")[0] if ":" in account else "***"
        host = f"{user}:***@{host}" if ":" in account else f"***@{host}"
    query = "&".join(f"{pair.partition('=')[0]}=***" for pair in parts.query.split("&")) if parts.query else ""
    # Not urlunsplit: it shortens `memory://` to `memory:`.
    return f"{parts.scheme}://{host}{parts.path}{'?' if query else ''}{query}"
