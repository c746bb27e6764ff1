"""A delivery: one arrival of an event, with what is needed to settle it.

Transports subclass `Delivery`, add slots for what they need to settle it, and override `metadata` and `original`. A
delivery is made once per arrival on the hottest path, so it is slotted and its views are lazy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from headrace.engine.ledger import Attempts, Identity
    from headrace.engine.source import Source
    from headrace.errors import InvalidEvent
    from headrace.event import Event

__all__ = ["ACK", "DEAD", "DROP", "HAND_BACK", "Delivery", "Original", "Outcome"]


class Original(NamedTuple):
    """What arrived, byte for byte: header pairs as the protocol carries them, and the body (``None``: absent)."""

    headers: Sequence[tuple[str, str | bytes]]
    body: bytes | None


class Outcome:
    """How a delivery ended, told to its source by `Source.settle`.

    ``kind`` is one of ``ack`` (done), ``retry`` (again after ``delay`` seconds), ``dead`` (its dead letter is stored),
    ``drop`` (the user gave it up), ``hand_back`` (never started; another owner may have it at once).
    ``result`` is the handler's returned event where the source answers its sender, ``error`` why it failed.
    """

    __slots__ = ("delay", "error", "kind", "result")

    def __init__(
        self, kind: str, *, delay: float = 0.0, result: Event | None = None, error: BaseException | None = None
    ) -> None:
        self.kind: Final = kind
        self.delay: Final = delay
        self.result: Final = result
        self.error: Final = error

    def __repr__(self) -> str:
        return f"Outcome({self.kind!r}, delay={self.delay}, error={self.error!r})"


ACK: Final = Outcome("ack")
DEAD: Final = Outcome("dead")
DROP: Final = Outcome("drop")
HAND_BACK: Final = Outcome("hand_back")


class Delivery:
    """One arrival of an event at one handler.

    Attributes:
        event: the event, or ``None`` where the bytes that arrived could not be decoded; then ``error`` says why.
        source: the source that fetched it and will settle it.
        size: bytes that it holds in memory (headers and body), for the credit in bytes.
        redelivered: the source knows that it was delivered before (it is a suspect after an unclean end).
        attempt: 1 for the first start of the handler, counted in the ledger over restarts; 0 before it.
        voided: why it was lost (a revoked partition, a new owner, a closed request), or ``None``.
        answers: a sender waits for the outcome (HTTP, request and reply): one attempt, nothing held, nothing dead-lettered;
            `Source.settle` gets the returned event or the error. Set by the subclass, for the class or each delivery.
    """

    __slots__ = (
        "_calls",
        "_cancel",
        "_claim",
        "_data",
        "_history",
        "_identity",
        "_lane",
        "_next",
        "_outcome",
        "_run",
        "_runner",
        "_span",
        "_staged",
        "_task",
        "_transaction",
        "attempt",
        "error",
        "event",
        "redelivered",
        "size",
        "source",
        "voided",
    )

    #: A class attribute here; a subclass may make it a slot of its own.
    answers: bool = False

    # Slots with an underscore belong to the engine (runner.py, subscription.py); transports leave them alone.
    _calls: int  # calls of app.publish in this attempt, for derived ids
    _cancel: str | None  # why the engine cancels the running attempt: timeout, void, drain
    _claim: (
        str | None
    )  # a hurdle before the next attempt: ours, busy, suspect, void, lost (void without a claim of its own); None: go
    _data: Any  # decoded for the handler
    _history: Attempts | None  # failed attempts so far
    _identity: Identity | None  # its name in the ledger
    _lane: str | None  # the key of its lane
    _next: Delivery | None  # behind it in its lane
    _outcome: Outcome | None  # how it ended; None: acknowledged
    _run: Any  # the handler's coroutine while an attempt runs
    _runner: Any  # the runner that holds it
    _span: Any  # the trace of the attempt that runs, or ran last; None where nothing is traced
    _staged: Any  # what a transactional handler has published so far; None: its transaction has ended
    _task: Any  # the worker whose attempt is suspended
    _transaction: Any  # the store transaction of a transactional handler

    def __init__(
        self,
        source: Source,
        event: Event | None,
        size: int,
        error: InvalidEvent | None = None,
        redelivered: bool = False,
    ) -> None:
        self.source = source
        self.event = event
        self.size = size
        self.error = error
        self.redelivered = redelivered
        self.attempt = 0
        self.voided: str | None = None
        self._next = None
        self._claim = None
        self._history = None
        self._identity = None
        self._lane = None
        self._outcome = None
        self._cancel = None
        self._task = None
        self._runner = None
        self._span = None

    @property
    def metadata(self) -> Mapping[str, str | int | float]:
        """Transport facts (stream and sequence, topic, partition and offset, redelivery count …), never attributes."""
        return {}

    def original(self) -> Original:
        """What arrived, byte for byte, for the dead letter. Default: the event in structured JSON."""
        event = self.event
        if event is None:
            return Original((), None)
        return Original((("content-type", "application/cloudevents+json"),), event.to_json())

    @property
    def under_way(self) -> bool:
        """An attempt runs, or has ended and is being settled; ``False`` before the first, and while it waits for a retry.

        For sources that let what runs finish before they give it up (a revoked partition).
        """
        runner = self._runner
        return self.attempt > 0 and runner is not None and self not in runner.parking.places

    def void(self, reason: str) -> None:
        """Called by the source that lost this delivery: it is not attempted, publishes nothing, releases its claim, and
        its completion is discarded. A running attempt is cancelled and not counted. Safe to call more than once."""
        if self.voided is None:
            self.voided = reason
            if self._runner is not None:
                self._runner.on_void(self)
