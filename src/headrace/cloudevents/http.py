"""The HTTP binding: `ce-` headers with percent-encoded values, structured and batched modes, JSON.

Headers are (name, value) pairs, str or bytes, as ASGI, h11, httptools or aiohttp hand them over; ASGI's list of bytes
with lower-case names is the fastest. Names are compared without regard to case. Source: CloudEvents HTTP binding 1.0.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from headrace.cloudevents.binding import Binding, compiled
from headrace.event import Event

BINDING: Final = Binding(
    protocol="HTTP",
    prefix="ce-",
    percent_encoded=True,
    ignores_case=True,
    content_type="only",
    batches=True,
    sniffs_json=False,
    writes_bytes=False,
    absent_body=b"",
)

decode, decode_binary, read = compiled(BINDING)

mode: Final = BINDING.mode
"""How a message carries its event, or "plain"."""

binary: Final[Callable[[Event], tuple[list[tuple[str, str]], bytes]]] = BINDING.binary
"""An event as (headers, body) in binary mode."""

structured: Final[Callable[[Event], tuple[list[tuple[str, str]], bytes]]] = BINDING.structured
"""An event as (headers, body) in structured mode."""

batch: Final[Callable[[Iterable[Event]], tuple[list[tuple[str, str]], bytes]]] = BINDING.batch
"""Events as (headers, body) in batched mode."""
