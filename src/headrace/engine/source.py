"""The engine's contract with a source.

What holds for every source (and is checked by `headrace.testing.conformance`):

- `fetch` returns at least one delivery and at most the credit (one delivery larger than the whole byte credit is
  allowed, or it could never pass); ``[]`` only when the source itself is draining. It may be cancelled at any await:
  what it had taken stays in the source and is returned by the next `fetch` or given up by `close`.
- An undecodable message is a delivery with ``event=None`` and its `InvalidEvent`, never an exception.
- `settle` never blocks and never raises: it queues; `flush` waits.
- After an outage the source reconnects by itself, with back-off, for as long as it takes; `progress` tells. `fetch`
  raises only what no waiting can mend, as a `HeadraceError` that names the remedy and carries the exit code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from headrace.engine.broker import Binding
    from headrace.engine.delivery import Delivery, Outcome

__all__ = ["Credit", "Declaration", "Progress", "Source"]


class Credit(NamedTuple):
    """How much a source may hand over now: deliveries, and bytes of them."""

    items: int
    bytes: int


@dataclass(slots=True, kw_only=True)
class Progress:
    """Where a source stands; feeds health, metrics and `headrace handlers`.

    ``lag_events`` and ``lag_seconds`` are ``None`` where the source cannot know them. ``owner``: this process is the
    active owner of a keyed consumer (``True``), stands by (``False``), or the source knows no owners (``None``);
    ``owned_by`` says to a stand-by who the owner is, where that is known.
    ``last_progress`` is ``time.monotonic()`` of the last message or heartbeat. ``detail`` is one sentence for people when
    something is amiss, else empty. ``expired`` counts unread events that the server discarded.
    """

    connected: bool
    lag_events: int | None = None
    lag_seconds: float | None = None
    last_progress: float = 0.0
    owner: bool | None = None
    owned_by: str = ""
    reconnects: int = 0
    expired: int = 0
    detail: str = ""


@runtime_checkable
class Source(Protocol):
    """Where events come from. One instance serves one handler.

    ``name``: declared name for metrics, health and dead letters (never an id or a key), e.g. ``nats:order.created``.
    ``keeps_order``: events arrive in order and a retry is held or parked by the engine; ``False``: a retry with a delay is
    settled with the source, which brings the delivery back.

    A source may have, beside these: ``default_key(delivery)``, the lane where the user names no key, with
    ``default_lane``, what that is called ("record key"); ``idempotent = False``,
    where it knows by itself what was finished, with ``record(deliveries)``, which keeps their failed attempts durably, and
    ``identity(delivery)``, their name in the ledger of a transactional handler; ``ask(credit)``, called where the credit has
    grown while a `fetch` waits, so that a source that asks its broker for messages can ask for more;
    ``acknowledge(deliveries)``, which is `settle` with `ACK` for each of them.
    ``extend_every``: seconds between calls of `extend` for what is held, or ``None`` where nothing expires.
    """

    name: str
    keeps_order: bool
    extend_every: float | None

    async def open(self) -> None:
        """Connect, declare or check what is needed. Raises a `HeadraceError` with the exit code that fits."""

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """At least one delivery within the credit; ``[]`` only when draining."""
        ...

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Queue how a delivery ended; sent in batches."""

    async def flush(self) -> Sequence[Delivery]:
        """All settled so far has reached the broker; returns those that are not confirmed (they will come again)."""
        ...

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Still working on these: renew their deadline."""

    async def close(self) -> None:
        """Give up what was fetched and never handed over, then let go of the connection's share."""

    def progress(self) -> Progress:
        """Where this source stands now; cheap, no I/O."""
        ...


class Declaration(Protocol):
    """What a user writes in ``@app.on(...)``: settings without a connection, bound to one handler at start-up."""

    name: str

    def bind(self, binding: Binding) -> Source:
        """The source for one handler. Raises `ConfigurationError` naming the handler for what cannot be."""
        ...
