"""The Kafka binding: `ce_` headers in UTF-8, the `content-type` header, and structured JSON.

Headers are (str, bytes) pairs, as every Kafka client hands them over. A message without a value is an event without
data: a tombstone in a compacted topic. Source: CloudEvents Kafka binding 1.0.2, and main on tombstones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from headrace.cloudevents.binding import Binding, compiled
from headrace.cloudevents.extensions import partition_key as partitioning
from headrace.event import Event

BINDING: Final = Binding(
    protocol="Kafka",
    prefix="ce_",
    percent_encoded=False,
    ignores_case=False,
    content_type="beside",
    batches=False,
    sniffs_json=False,
    writes_bytes=True,
    absent_body=None,
)

decode, decode_binary, read = compiled(BINDING)

mode: Final = BINDING.mode
"""How a message carries its event, or "plain"."""

binary: Final[Callable[[Event], tuple[list[tuple[str, bytes]], bytes | None]]] = BINDING.binary
"""An event as (headers, body) in binary mode."""

structured: Final[Callable[[Event], tuple[list[tuple[str, bytes]], bytes]]] = BINDING.structured
"""An event as (headers, body) in structured mode."""


def partition_key(event: Event) -> bytes | None:
    """The opt-in key mapper of section 3.1: the `partitionkey` attribute as the record's key, as it is; the event
    keeps it."""
    key = partitioning(event)
    return None if key is None else key.encode("utf-8")
