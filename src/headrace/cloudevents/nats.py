"""The NATS binding: `ce-` headers with percent-encoded values, `ce-datacontenttype` among them, and structured JSON.

Headers are (name, value) pairs, str or bytes, a list of str being the fastest; names are compared without regard to
case. A message is read by its content type if that is CloudEvents', else by `ce-specversion`, else as a JSON object.
Source: CloudEvents NATS binding, main text (1.0.2 knows structured mode only).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from headrace.cloudevents.binding import Binding, compiled
from headrace.event import Event

BINDING: Final = Binding(
    protocol="NATS",
    prefix="ce-",
    percent_encoded=True,
    ignores_case=True,
    content_type="spelled",
    batches=False,
    sniffs_json=True,
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
