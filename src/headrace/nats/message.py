"""A JetStream message as a delivery: decoded once, its transport facts read from the reply subject only when asked for.

The reply subject says it all: `$JS.ACK.<stream>.<consumer>.<times delivered>.<stream sequence>.<consumer sequence>.<time>.<left>`,
in the longer form with the domain and account hash before the stream and a token at the end (ADR-15).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from headrace.cloudevents.data import is_json_text
from headrace.engine.delivery import Delivery, Original
from headrace.event import Event
from headrace.nats.wire import header_pairs

__all__ = ["Incarnation", "JetStreamDelivery", "facts", "numbers", "original_headers", "plain", "prefix_of"]

#: Headers that the server adds on the way, which the stored message does not have.
_ADDED: Final = ("nats-pin-id",)


class Incarnation(NamedTuple):
    """A stream from its creation to its deletion: sequences of another one mean other messages."""

    stream: str
    created: str

    @property
    def source(self) -> str:
        """The source of plain messages of this stream."""
        return f"nats:{self.stream}/{self.created}"


class Facts(NamedTuple):
    """What a reply subject says. ``time`` in nanoseconds since the epoch; ``left``: messages behind this one."""

    stream: str
    consumer: str
    delivered: int
    sequence: int
    consumer_sequence: int
    time: int
    left: int


def facts(reply: bytes) -> Facts:
    """The facts of a reply subject, in either form."""
    words = reply.decode().split(".")
    if len(words) == 9:
        first = 2
    elif len(words) >= 11:
        first = 4
    else:
        raise ValueError(f"{reply!r} is no reply subject of JetStream")
    return Facts(words[first], words[first + 1], *(int(word) for word in words[first + 2 : first + 7]))


def prefix_of(reply: bytes) -> int:
    """How many bytes of a reply subject come before the number of deliveries; the same for all of a consumer."""
    words = reply.split(b".")
    count = 4 if len(words) == 9 else 6
    return sum(len(word) + 1 for word in words[:count])


def numbers(reply: bytes, prefix: int) -> tuple[int, int]:
    """The sequences in stream and consumer, where `prefix_of` is known."""
    _, sequence, consumer_sequence, _ = reply[prefix:].split(b".", 3)
    return int(sequence), int(consumer_sequence)


class JetStreamDelivery(Delivery):
    """One message of a stream."""

    __slots__ = ("body", "headers", "incarnation", "reply", "subject")

    subject: bytes
    reply: bytes
    headers: bytes
    body: bytes
    incarnation: Incarnation

    @property
    def metadata(self) -> Mapping[str, str | int | float]:
        """``stream``, ``sequence``, ``consumer``, ``consumer_sequence``, ``deliveries``, ``time`` (seconds since the epoch),
        ``subject``."""
        found = facts(self.reply)
        return {
            "stream": found.stream,
            "sequence": found.sequence,
            "consumer": found.consumer,
            "consumer_sequence": found.consumer_sequence,
            "deliveries": found.delivered,
            "time": found.time / 1e9,
            "subject": self.subject.decode("utf-8", "replace"),
        }

    def original(self) -> Original:
        return Original(original_headers(self.headers), self.body)


def original_headers(block: bytes) -> list[tuple[str, bytes]]:
    """A header block as the publisher wrote it, values as bytes."""
    return [
        (name, value.encode("utf-8", "surrogateescape"))
        for name, value in header_pairs(block)
        if name.lower() not in _ADDED
    ]


def plain(subject: bytes, block: bytes, body: bytes, source: str, id: str, wants_bytes: bool) -> Event:
    """The event of a message that is no CloudEvent (DESIGN.md, Plain messages)."""
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": subject.decode("utf-8", "replace"),
    }
    content_type = None
    if b"content-type" in block.lower():
        content_type = next((value for name, value in header_pairs(block) if name.lower() == "content-type"), None)
    if content_type and content_type.isprintable():
        attributes["datacontenttype"] = content_type
    elif not wants_bytes and body and is_json_text(body):
        attributes["datacontenttype"] = "application/json"
    return Event._trusted(attributes, body or None)
