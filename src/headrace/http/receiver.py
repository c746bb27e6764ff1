"""`Receiver`: what a user writes to have a handler's events arrive over HTTP."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from headrace.errors import ConfigurationError
from headrace.http.limits import Limits
from headrace.http.tokens import Tokens

if TYPE_CHECKING:
    from headrace.engine.broker import Binding
    from headrace.http.durable import DurableSource
    from headrace.http.source import HttpSource

__all__ = ["Receiver"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Z-]+")


class Receiver:
    """CloudEvents over HTTP, in binary, structured and batched mode, at one path.

    Args:
        path: the absolute path, matched exactly.
        mode: ``"sync"`` answers after the one attempt is settled; nothing is held for a retry. ``"durable"`` stores the
            event in the channel ``headrace.<app>.<handler>.ingress`` of the app's broker and answers 202; retries and
            dead letters follow as for any channel.
        methods: the methods that bring events.
        max_body: bytes of a request's body (1 MiB).
        max_decompressed: bytes of a gzip or deflate body after decompression; default: ``max_body``.
        max_ratio: how many times larger a compressed body may become.
        max_batch: events in one batch.
        max_depth: nesting of a JSON body.
        allowed_origins: senders to whom the webhook handshake consents, compared exactly (http-webhook.md, 4);
            ``"*"`` for every one.
        allowed_rate: requests a minute that the handshake grants; ``None``: as many as are asked for.
        callback_hosts: hosts whose callback URLs are requested: a handshake that brings one is answered without
            consent, and an allowed origin gets it by a POST to its callback. Other callbacks are left alone.
        tokens: bearer tokens of which a request must carry one, in ``Authorization`` or as ``access_token`` in its query
            (401 without); several are for rotation. None: none is asked for.
        retired: paths that answer 410, so that their senders stop.

    Raises:
        ConfigurationError: a path, mode, method or limit that cannot be.
    """

    def __init__(
        self,
        path: str,
        *,
        mode: Literal["sync", "durable"] = "sync",
        methods: Sequence[str] = ("POST",),
        max_body: int = 1024 * 1024,
        max_decompressed: int | None = None,
        max_ratio: int = 200,
        max_batch: int = 256,
        max_depth: int = 64,
        allowed_origins: Sequence[str] = (),
        allowed_rate: int | None = None,
        callback_hosts: Sequence[str] = (),
        tokens: Sequence[str] = (),
        retired: Sequence[str] = (),
    ) -> None:
        if not path.startswith("/") or "?" in path or "#" in path:
            raise ConfigurationError(
                f"Receiver({path!r}): the path starts with a slash and has no query or fragment, such as '/events'"
            )
        if mode not in ("sync", "durable"):
            raise ConfigurationError(f'Receiver({path!r}): mode is "sync" or "durable"; got {mode!r}')
        self.methods = tuple(method.upper() for method in methods)
        for method in self.methods or ("",):
            if not _TOKEN.fullmatch(method) or method in ("OPTIONS", "GET", "HEAD", "TRACE", "CONNECT"):
                raise ConfigurationError(f"Receiver({path!r}): {method!r} cannot bring events; use POST, PUT or PATCH")
        if allowed_rate is not None and allowed_rate < 1:
            raise ConfigurationError(f"Receiver({path!r}): allowed_rate is requests a minute, at least 1")
        for name, given in (
            ("allowed_origins", allowed_origins),
            ("callback_hosts", callback_hosts),
            ("tokens", tokens),
            ("retired", retired),
        ):
            if isinstance(given, str):
                raise ConfigurationError(f"Receiver({path!r}): {name} is a list of them, not one string")
            if not all(given):
                raise ConfigurationError(f"Receiver({path!r}): one of {name} is empty")
        if callback_hosts and not allowed_origins:
            raise ConfigurationError(f"Receiver({path!r}): callback_hosts without allowed_origins allow nobody")
        if any(not old.startswith("/") or "?" in old or old == path for old in retired):
            raise ConfigurationError(f"Receiver({path!r}): retired holds other paths, such as '/old-events'")
        self.path = path
        self.name = f"http:{path}"
        self.mode = mode
        self.allowed_origins = frozenset(allowed_origins)
        self.allowed_rate = allowed_rate
        self.callback_hosts = frozenset(host.lower() for host in callback_hosts)
        self.tokens = Tokens(tokens)
        self.retired = tuple(retired)
        self.limits = Limits(
            body=max_body,
            decompressed=max_body if max_decompressed is None else max_decompressed,
            ratio=max_ratio,
            batch=max_batch,
            depth=max_depth,
        )

    def __repr__(self) -> str:
        return f"Receiver({self.path!r}, mode={self.mode!r})"

    def bind(self, binding: Binding) -> HttpSource | DurableSource:
        """The source for one handler. Raises `ConfigurationError` for durable mode without a broker."""
        if self.mode == "sync":
            from headrace.http.source import HttpSource

            return HttpSource(self, binding)
        from headrace.http.durable import DurableSource

        return DurableSource(self, binding)
