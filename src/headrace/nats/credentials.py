"""Reads a NATS URL and its settings: which servers, who we are, how the connection is protected.

`nats://user:password@host:4222,other:4222?tls_ca=/etc/ca.pem`: every part of the query may also come from the settings
(`HEADRACE_NATS_CREDS` is `creds`), the URL winning.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from headrace.errors import ConfigurationError

__all__ = ["OPTIONS", "Address", "address"]

#: What a query may hold, each also a setting with `nats_` before it.
OPTIONS: Final = (
    "user",
    "password",
    "token",
    "nkey",
    "creds",
    "tls",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "tls_hostname",
    "domain",
    "stream_max_age",
    "stream_max_bytes",
    "stream_replicas",
    "monitor",
    "expected_replicas",
    "refused_for",
)
_TRUE: Final = ("1", "true", "yes", "on")


@dataclass(slots=True, kw_only=True)
class Address:
    """Where to connect. ``shown`` has no secrets; ``options`` are keywords of nats-py's `Client.connect`; ``tls``: the
    connection must be encrypted, whatever the server says; ``refused_for``: seconds for which refused credentials are tried
    again after a connection that worked; ``settings``: every option that is set, by its bare name."""

    servers: list[str]
    shown: str
    tls: bool
    refused_for: float = 60.0
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    def context(self) -> ssl.SSLContext:
        """What TLS trusts and shows, from the files as they are now."""
        return _context(self.settings)


def address(url: str, settings: Mapping[str, str]) -> Address:
    """Read a URL and the settings beside it (with or without `nats_` before their names).

    Raises:
        ConfigurationError: the URL, an option or a named file is not what it should be.
    """
    scheme, found, rest = url.partition("://")
    if not found or scheme not in ("nats", "tls"):
        raise ConfigurationError(f"{hidden(url)!r} is no NATS URL: it starts with nats:// or tls://")
    rest, _, query = rest.partition("?")
    values = {name: settings[name] for name in OPTIONS if settings.get(name)}
    values |= {name: settings[f"nats_{name}"] for name in OPTIONS if settings.get(f"nats_{name}")}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in OPTIONS:
            raise ConfigurationError(f"the NATS URL has the unknown option {name!r}; known are {', '.join(OPTIONS)}")
        values[name] = value
    servers = []
    for part in rest.split(","):
        host = part.strip().rstrip("/").removeprefix("nats://").removeprefix("tls://")
        if "@" in host:
            who, _, host = host.rpartition("@")
            user, colon, password = who.partition(":")
            if colon:
                values["user"], values["password"] = unquote(user), unquote(password)
            else:
                values["token"] = unquote(user)
        servers.append(_server(scheme, host))
    protected = scheme == "tls" or values.get("tls", "").lower() in _TRUE
    protected = protected or any(name in values for name in ("tls_ca", "tls_cert", "tls_key"))
    shown = f"{scheme}://" + ",".join(server.partition("://")[2] for server in servers)
    made = Address(servers=servers, shown=shown, tls=protected, settings=values)
    _who(made)
    if "refused_for" in values:
        made.refused_for = _seconds(values["refused_for"], "refused_for")
    if protected:
        made.context()
        if "tls_hostname" in values:
            made.options["tls_hostname"] = values["tls_hostname"]
    return made


def hidden(url: str) -> str:
    """The URL without user, password, token and query."""
    scheme, found, rest = url.partition("://")
    if not found:
        return url.rpartition("@")[2]
    hosts = [part.rpartition("@")[2] for part in rest.partition("?")[0].split(",")]
    return f"{scheme}://{','.join(hosts)}"


def _server(scheme: str, host: str) -> str:
    try:
        parts = urlsplit(f"{scheme}://{host}")
        port = parts.port or 4222
    except ValueError:
        raise ConfigurationError(f"the NATS URL names the server {host!r}, which is no host and port") from None
    if not parts.hostname or parts.path:
        raise ConfigurationError(f"the NATS URL names the server {host!r}, which is no host and port")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{name}:{port}"


def _who(made: Address) -> None:
    values, options = made.settings, made.options
    given = [name for name in ("creds", "nkey", "token", "user") if name in values]
    if len(given) > 1:
        raise ConfigurationError(f"NATS credentials are given twice: {' and '.join(given)}; give one of them")
    if "password" in values and "user" not in values:
        raise ConfigurationError("a NATS password is given without a user")
    if "creds" in values:
        options["user_credentials"] = _file(values["creds"], "creds")
    elif "nkey" in values:
        seed = values["nkey"]
        if seed.startswith("SU") and "/" not in seed:
            options["nkeys_seed_str"] = seed
        else:
            options["nkeys_seed"] = _file(seed, "nkey")
    elif "token" in values:
        options["token"] = values["token"]
    elif "user" in values:
        options["user"], options["password"] = values["user"], values.get("password", "")


def _seconds(text: str, option: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise ConfigurationError(f"NATS: {option} is a number of seconds, not {text!r}")
    return found


def _context(values: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=_file(values["tls_ca"], "tls_ca") if "tls_ca" in values else None)
        if "tls_key" in values and "tls_cert" not in values:
            raise ConfigurationError("NATS: tls_key is given without tls_cert")
        if "tls_cert" in values:
            key = _file(values["tls_key"], "tls_key") if "tls_key" in values else None
            context.load_cert_chain(_file(values["tls_cert"], "tls_cert"), key)
    except ssl.SSLError as error:
        raise ConfigurationError(f"the TLS files for NATS cannot be read: {error}") from None
    return context


def _file(path: str, option: str) -> str:
    if not Path(path).is_file():
        raise ConfigurationError(f"NATS: {option} names the file {path}, which does not exist")
    return path
