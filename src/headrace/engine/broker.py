"""The engine's contract with a broker: what turns channel names into sources and sinks.

One instance an app and URL; its connection is shared by all sources and sinks made from it. `Binding` is what a source
learns about the handler that it serves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from headrace.engine.checkpoints import Checkpoints, Suspects
    from headrace.engine.dead_letters import DeadLetter, DeadLetterStore
    from headrace.engine.sink import Sink
    from headrace.engine.source import Credit, Declaration, Source

__all__ = ["Binding", "Broker", "Finding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One handler, as its source needs to know it.

    Attributes:
        app, handler: names; ``durable`` is ``<app>__<handler>``.
        keyed: the handler has lanes by key, so that its consumer needs one active owner where the broker reorders.
        concurrency: attempts at once; ``prefetch``: deliveries and bytes held beside them; ``parked``: the budget for
            deliveries that wait for a retry. Their sum bounds what is unsettled.
        timeout: seconds an attempt may take.
        start: where a new consumer begins: ``earliest`` (default), ``latest``, or what the transport's declaration takes.
        wants_bytes: the handler's data parameter is ``bytes``: a plain message's body is not parsed.
        handlers: names of all handlers of this app, for the rename guard.
        broker: the app's broker, or ``None``.
        checkpoints: where a source without acknowledgements saves how far it is, or ``None`` where nothing is kept.
        ready_within: seconds to wait for a server at start before `ConnectionFailed` (10).
    """

    app: str
    handler: str
    keyed: bool
    concurrency: int
    prefetch: Credit
    parked: Credit
    timeout: float
    start: str = "earliest"
    wants_bytes: bool = False
    handlers: tuple[str, ...] = ()
    broker: Broker | None = None
    checkpoints: Checkpoints | None = None
    ready_within: float = 10.0
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def durable(self) -> str:
        """The name of everything at the broker that outlives the process."""
        return f"{self.app}__{self.handler}"


class Finding(NamedTuple):
    """One thing that `headrace check --connect` or `doctor` found out: how bad, and one sentence with its remedy."""

    level: Literal["info", "warning", "error"]
    message: str


@runtime_checkable
class Broker(Protocol):
    """``name`` is its scheme (``nats``, ``kafka``, ``memory``); ``url`` has its secrets hidden."""

    name: str
    url: str

    async def open(self) -> None:
        """Connect. Raises `ConnectionFailed` after ``ready_within`` seconds, or at once where credentials are refused."""

    def channel(self, channel: str, binding: Binding) -> Source:
        """The source of a channel for one handler."""
        ...

    def sink(self, channel: str) -> Sink:
        """The sink of a channel. One instance a channel is shared by all callers."""
        ...

    def dead_letters(self, app: str) -> DeadLetterStore | None:
        """Where this broker keeps dead letters, or ``None`` where it cannot."""
        ...

    def replays(self, binding: Binding) -> Source:
        """The source of the handler's replay channel."""
        ...

    async def replay(self, letter: DeadLetter) -> None:
        """Publish a letter's event (edited or original) to its handler's replay channel, confirmed; its deduplication id
        is the letter's id and replay number."""

    def checkpoints(self, app: str) -> Checkpoints | None: ...

    def suspects(self, app: str) -> Suspects | None: ...

    async def inspect(self, bindings: list[tuple[str | Declaration, Binding]]) -> list[Finding]:
        """What is amiss at the broker for these (channel or explicit source, binding) pairs, in words, and who owns what;
        sources of other transports are passed by; nothing is created."""
        ...

    async def close(self) -> None: ...
