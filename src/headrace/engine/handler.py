"""A handler: the user's function, compiled once at start-up with its policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.engine.signature import Signature
from headrace.engine.source import Credit
from headrace.event import Event
from headrace.policy import Retry

__all__ = ["DEFAULT_PARKED", "DEFAULT_PREFETCH_BYTES", "Handler"]

DEFAULT_PREFETCH_BYTES = 64 * 1024 * 1024
DEFAULT_PREFETCH = Credit(256, DEFAULT_PREFETCH_BYTES)
DEFAULT_PARKED = Credit(10_000, 64 * 1024 * 1024)


@dataclass(slots=True, kw_only=True)
class Handler:
    """Everything about one handler that the pipeline reads.

    Attributes:
        app, name: it is known as ``<app>__<name>`` wherever both are needed.
        signature: how to call it.
        key: (event, data) → text, or ``None`` for an unkeyed handler.
        accept: the filter, or ``None`` where everything passes.
        retry, timeout (seconds an attempt), concurrency: its policies; ``order`` is the retry's with its default resolved.
        prefetch: deliveries and bytes held beside the running attempts; ``parked``: the budget of those that wait for a retry.
        identify: the ledger's name of an event, ``None`` for (source, id); ``idempotent``: whether the ledger is asked at all.
        publishes: channel of the outputs or ``None``; ``publish_key``: of an output's (event, data), or ``None``.
        ack_first: settle before the handler runs (at most once).
    """

    app: str
    name: str
    signature: Signature
    key: Callable[[Event, Any], str] | None = None
    accept: Callable[[Event], bool] | None = None
    retry: Retry = field(default_factory=Retry)
    order: str = "release"
    timeout: float = 30.0
    concurrency: int = 64
    prefetch: Credit = DEFAULT_PREFETCH
    parked: Credit = DEFAULT_PARKED
    idempotent: bool = True
    identify: Callable[[Event], str] | None = None
    publishes: Any = None
    publish_type: str = ""
    publish_key: Callable[[Event, Any], str] | None = None
    ack_first: bool = False
    sources: Sequence[str] = ()

    @property
    def keyed(self) -> bool:
        """Whether deliveries wait behind earlier ones of their key."""
        return self.key is not None
