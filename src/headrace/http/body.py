"""The body of a request: read to its end, decompressed, and measured, all within the limits.

Each function either returns what the decoder may trust in size and depth, or raises `Refused` with the status that the
sender gets.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from headrace.http.answers import Refused
from headrace.http.limits import Limits

__all__ = ["Gone", "check_depth", "decompress", "read"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

#: Below this a high ratio is harmless (RFC 1951 allows about 1,030 : 1).
RATIO_FROM: Final = 64 * 1024

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_ROUND = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")


class Gone(Exception):
    """The client closed its request before it had sent it all; nobody waits for an answer."""


async def read(receive: Receive, limit: int) -> bytes:
    """The whole body. Raises `Refused` (413) as soon as it exceeds the limit, `Gone` where the client went away."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Gone
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise too_large(limit)
        return body
    parts = bytearray(body)
    while message.get("more_body", False):
        if len(parts) > limit:
            raise too_large(limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        parts += message.get("body", b"")
    if len(parts) > limit:
        raise too_large(limit)
    return bytes(parts)


def too_large(limit: int) -> Refused:
    return Refused(413, f"the body is larger than {limit} bytes; send less, or raise the receiver's max_body")


def decompress(body: bytes, coding: bytes, limits: Limits) -> bytes:
    """The body without its content coding (RFC 9110, 8.4): gzip, deflate, identity, or several of them.

    Raises `Refused`: 415 for another coding, 413 beyond the limits, 400 for a body that is not what the header says.
    """
    codings = [part.strip().lower() for part in coding.split(b",") if part.strip()]
    if len(codings) > 2:
        raise Refused(415, "more than two content codings; send gzip, deflate or identity")
    for name in reversed(codings):
        if name in (b"gzip", b"x-gzip"):
            body = _inflate(body, 16 + zlib.MAX_WBITS, limits)
        elif name == b"deflate":
            # RFC 9110 says zlib's format; some senders send the bare deflate stream.
            zlib_header = len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
            body = _inflate(body, zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS, limits)
        elif name != b"identity":
            raise Refused(
                415,
                f"content coding {name.decode('latin-1')!r} is not supported; send gzip, deflate or identity",
                headers=((b"accept-encoding", b"gzip, deflate, identity"),),
            )
    return body


def _inflate(body: bytes, window: int, limits: Limits) -> bytes:
    allowed = min(limits.decompressed, max(RATIO_FROM, len(body) * limits.ratio))
    out = bytearray()
    rest = body
    while rest:  # a gzip body may have several members (RFC 1952, 2.2)
        engine = zlib.decompressobj(window)
        try:
            out += engine.decompress(rest, allowed + 1 - len(out))
        except zlib.error as error:
            raise Refused(400, f"the body is not what its Content-Encoding says: {error}") from None
        if len(out) > allowed:
            reason = f"more than {limits.decompressed} bytes"
            if allowed < limits.decompressed:
                reason = f"more than {limits.ratio} times its compressed size"
            raise Refused(413, f"the body decompresses to {reason}; send it in parts")
        if not engine.eof:
            raise Refused(400, "the compressed body ends before its end marker; send it again")
        rest = engine.unused_data if window > zlib.MAX_WBITS else b""
    return bytes(out)


def check_depth(body: bytes, limit: int) -> None:
    """Refuse (400) JSON nested deeper than the limit, before any parser recurses into it.

    Counting brackets settles nearly every body at once. Otherwise strings are removed and innermost pairs cancelled, a
    round for each level: linear work in C, so that a hostile megabyte costs milliseconds.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return
    brackets = _STRING.sub(b"", body).translate(_ROUND, _NOT_BRACKETS)
    for _ in range(limit):
        fewer = brackets.replace(b"[]", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    if b"[]" in brackets or brackets.count(b"[") > limit:
        raise Refused(400, f"the JSON body is nested deeper than {limit} levels; flatten it, or raise max_depth")
