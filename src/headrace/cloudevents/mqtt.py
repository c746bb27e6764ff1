"""The MQTT 5 binding: user properties named as attributes, the Content Type property, and structured JSON.

Headers are (name, value) pairs of str: the message's user properties, and its Content Type property as
`content-type`. A message without both is MQTT 3.1.1's, which carries structured JSON only. User properties that
cannot be attributes are left to whoever put them there. Source: CloudEvents MQTT binding 1.0.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from headrace.cloudevents.binding import Binding, compiled
from headrace.event import Event

BINDING: Final = Binding(
    protocol="MQTT",
    prefix="",
    percent_encoded=False,
    ignores_case=False,
    content_type="beside",
    batches=False,
    sniffs_json=True,
    writes_bytes=False,
    absent_body=b"",
    foreign_prefix="ce-",
)

decode, decode_binary, read = compiled(BINDING)

mode: Final = BINDING.mode
"""How a message carries its event, or "plain"."""

binary: Final[Callable[[Event], tuple[list[tuple[str, str]], bytes]]] = BINDING.binary
"""An event as (headers, body) in binary mode."""

structured: Final[Callable[[Event], tuple[list[tuple[str, str]], bytes]]] = BINDING.structured
"""An event as (headers, body) in structured mode."""
