"""Dead letters: events that could not be handled, kept with their history until they are replayed or dropped.

A letter's id is deterministic, so that storing it twice (a crash between store and settle) makes one letter. Its states:
dead → replaying → replayed | dropped; a replay that fails again is a new letter with the next replay number.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from headrace.cloudevents import kafka, nats
from headrace.engine.ledger import AttemptError
from headrace.errors import InvalidEvent
from headrace.event import Event

__all__ = ["OMITTED", "DeadLetter", "DeadLetterStore", "Revision", "Stored", "letter_id"]

#: In ``origin`` of a letter whose event was too large for the broker: how many bytes lie where it came from.
OMITTED = "omitted_bytes"
#: Opaque to callers; a store's compare-and-set compares it.
Revision = int | str


class Action(msgspec.Struct, frozen=True, array_like=True):
    """One line of a letter's audit: when (seconds since the epoch), what was done, by whom, why; ``detail`` is the
    difference that an edit made, as a unified diff."""

    at: float
    action: str
    by: str = ""
    reason: str = ""
    detail: str = ""


class DeadLetter(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The original event, byte for byte, and an envelope.

    Times are seconds since the epoch. ``headers`` and ``body`` are what arrived. ``reason`` is one sentence; ``exception`` the
    type's name; ``traceback`` is cut to 16 KiB. ``origin`` says where it came from (stream and sequence, topic, partition
    and offset, resource …). ``key`` is the lane's key. ``replay`` counts the replays before this letter; ``replay_of`` is
    the id of the letter whose replay failed. ``edited`` holds the replacement's headers and body after an edit. ``attributes``
    are the event's where its source gave it some that headers and body do not say (a plain message); else empty.
    """

    id: str
    app: str
    handler: str
    source: str
    event_source: str
    event_id: str
    event_type: str
    headers: list[tuple[str, bytes]]
    body: bytes | None
    reason: str
    exception: str
    message: str
    traceback: str
    attempts: int
    first_seen: float
    last_seen: float
    errors: list[AttemptError] = []
    origin: dict[str, str | int | float] = {}
    subject: str | None = None
    key: str | None = None
    channel: str | None = None
    state: str = "dead"
    replay: int = 0
    replay_of: str | None = None
    edited: tuple[list[tuple[str, bytes]], bytes | None] | None = None
    attributes: dict[str, str] = {}
    audit: list[Action] = []

    @property
    def event(self) -> Event | None:
        """The event (the edited one after an edit), or ``None`` where what arrived could not be decoded."""
        if self.edited is None and self.attributes:
            return Event._trusted(dict(self.attributes), self.body)
        headers, body = self.edited or (self.headers, self.body)
        try:
            event = _decoded(headers, body)
        except InvalidEvent:
            event = None
        if event is not None or not self.event_type:
            return event
        # A letter of an earlier version, of a plain message: the envelope kept as much of its attributes.
        attributes = {"specversion": "1.0", "id": self.event_id, "source": self.event_source, "type": self.event_type}
        if self.subject:
            attributes["subject"] = self.subject
        for name, value in headers:
            if name.lower() == "content-type":
                attributes["datacontenttype"] = value.decode("utf-8", "replace")
        return Event._trusted(attributes, body)

    @property
    def gone(self) -> bool:
        """Whether its event was too large to be kept here, and is not there any more where it came from."""
        return OMITTED in self.origin and self.body is None and self.edited is None

    def replayed(self) -> Event:
        """The event as its replay carries it: ``replayof`` this letter, with the next replay number.

        Raises `InvalidEvent` where what arrived is no event, or its bytes are gone: it must be edited first.
        """
        if self.gone:
            raise InvalidEvent(
                f"dead letter {self.id}: its {self.origin[OMITTED]} bytes did not fit into the broker, and are gone from "
                "where they came from; give it the event with dlq edit --event @FILE, or drop it"
            )
        event = self.event
        if event is None:
            raise InvalidEvent(
                f"dead letter {self.id} holds bytes that are no event ({self.reason}); edit it before replay"
            )
        return event.replace(replayof=self.id, replaynumber=self.replay + 1)


def _decoded(headers: list[tuple[str, bytes]], body: bytes | None) -> Event | None:
    """By the binding whose headers these are. Raises `InvalidEvent`; ``None`` or that for a plain message."""
    if any(name.startswith(kafka.BINDING.prefix) for name, _ in headers):
        return kafka.read(headers, body)
    pairs: list[tuple[Any, Any]] = list(headers)
    return nats.decode(pairs, body or b"", tolerant=True)[0]


def letter_id(app: str, handler: str, event_source: str, event_id: str, replay: int) -> str:
    """The id of the letter for this event of this handler after so many replays: 24 hexadecimal digits."""
    parts = "\0".join((app, handler, event_source, event_id, str(replay)))
    return hashlib.blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class Stored(NamedTuple):
    """A letter as it lies in the store, with the revision that an update must name."""

    letter: DeadLetter
    revision: Revision


@runtime_checkable
class DeadLetterStore(Protocol):
    """Where dead letters are kept: durable, one value a letter, compare-and-set."""

    async def open(self) -> None: ...

    async def put(self, letters: Sequence[DeadLetter]) -> Sequence[Exception | None]:
        """Store each; returns after all are confirmed. An id that exists already is left as it is. A result per letter:
        ``None``, or why this one could not be stored. Raises `StoreUnavailable` in an outage."""
        ...

    async def get(self, id: str) -> Stored | None: ...

    def scan(self, app: str, *, handler: str | None = None) -> AsyncIterator[Stored]:
        """Every letter of the app (and handler), oldest first."""
        ...

    async def update(self, letter: DeadLetter, revision: Revision) -> bool:
        """Replace the letter if it still has that revision; ``False`` where somebody was faster."""
        ...

    async def counts(self, app: str) -> dict[str, tuple[int, float]]:
        """For each handler with letters in state ``dead``: how many, and when the oldest was stored."""
        ...

    async def close(self) -> None: ...
