"""What one request may cost, before its content is believed.

Every limit is on by default: whoever can reach the port can send anything. The limits on connections, header size and
time belong to the server (`headrace.http.protocol`), because only it sees bytes before there is a request.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import ConfigurationError

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one receiver.

    Attributes:
        body: bytes of the body as it was sent, compressed or not.
        decompressed: bytes of a gzip or deflate body after decompression.
        ratio: how many times larger a compressed body may become; checked beyond 64 KiB.
        batch: events in one batch.
        depth: nesting of arrays and objects in a JSON body.

    Raises:
        ConfigurationError: a limit below 1.
    """

    body: int = 1024 * 1024
    decompressed: int = 1024 * 1024
    ratio: int = 200
    batch: int = 256
    depth: int = 64

    def __post_init__(self) -> None:
        for name in ("body", "decompressed", "ratio", "batch", "depth"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigurationError(
                    f"headrace.http: the limit {name} is a whole number, at least 1; got {value!r}"
                )
