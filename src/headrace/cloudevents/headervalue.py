"""Attribute values in headers that carry printable ASCII only: percent-encoding and the quoted strings of older
producers.

Source: CloudEvents HTTP binding 1.0.2, section 3.1.3.2, which the NATS binding repeats. Decoding undoes a quoted string
first (RFC 9110, 5.6.4), then one round of percent-encoding, and refuses what is not UTF-8 then.
"""

from __future__ import annotations

import re
from binascii import a2b_qp
from typing import Any

from headrace.errors import InvalidEvent

_UNSAFE = re.compile(r"[^\x21-\x7e]|[\"%]")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Possessive, because a group that may give back what it took costs memory for each of its turns.
_QUOTED_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)


def is_safe(text: str) -> bool:
    """Whether text has nothing to encode; several times quicker than to search for it."""
    return text.isascii() and text.isprintable() and " " not in text and "%" not in text and '"' not in text


def percent_encoded(text: str) -> str:
    """Text with space, `"`, `%` and everything outside U+0021-007E percent-encoded as UTF-8, upper-case."""
    if is_safe(text):
        return text
    return _UNSAFE.sub(lambda found: "".join([f"%{byte:02X}" for byte in found.group().encode("utf-8")]), text)


def percent_decoded(attribute: str, value: Any, *, tolerant: bool = False) -> str:
    """The text of a header value.

    Args:
        attribute: the attribute's name, for the message.
        value: as the protocol's library gives it: bytes, or str that is ASCII, Latin-1 or surrogate-escaped UTF-8.
        tolerant: also read raw UTF-8, stray percent signs and broken quoted strings.

    Raises:
        InvalidEvent: not ASCII, a percent sign that starts no escape, escapes that are not UTF-8, a broken quoted
            string.
    """
    text = value_text(value)
    if not text.isascii():
        if not tolerant:
            raise InvalidEvent(f"attribute {attribute!r} holds characters outside ASCII: they must be percent-encoded")
        text = _raw_utf8(attribute, value, text)
    if text.startswith('"'):
        if len(text) > 1 and _QUOTED_STRING.fullmatch(text):
            text = _unquoted(text[1:-1])
        elif not tolerant:
            raise InvalidEvent(f"attribute {attribute!r} starts a quoted string that does not end")
    if "%" not in text:
        return text
    try:
        return _unescaped(attribute, text, tolerant).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidEvent(f"attribute {attribute!r} has percent escapes that are not UTF-8") from None


def value_text(value: Any) -> str:
    """A header name or value as text; bytes as Latin-1, which never fails and keeps ASCII.

    Raises:
        InvalidEvent: neither str nor bytes.
    """
    if value.__class__ is str:
        return str(value)
    try:
        return str(value, "latin-1")
    except TypeError:
        raise InvalidEvent(f"a header name or value is {type(value).__name__}, neither str nor bytes") from None


def _unquoted(text: str) -> str:
    """Every backslash with what follows it replaced by what follows it; pairs are found from the left."""
    if "\0" in text:
        return text  # is no attribute value, and is refused as such
    return text.replace("\\\\", "\0").replace("\\", "").replace("\0", "\\")


def _unescaped(attribute: str, text: str, tolerant: bool) -> bytes:
    """One round of percent-decoding.

    It is done by the quoted-printable decoder, which differs in its sign alone: a loop over the escapes takes a hundred
    times as long, which a hostile header of a megabyte would make felt.
    """
    stray = _STRAY_PERCENT.search(text)
    if stray is not None:
        if not tolerant:
            raise InvalidEvent(f"attribute {attribute!r} has a percent sign at {stray.start()} that starts no escape")
        text = _STRAY_PERCENT.sub("%25", text)
    return a2b_qp(text.encode("utf-8").replace(b"=", b"=3D").replace(b"%", b"="))


def _raw_utf8(attribute: str, value: Any, text: str) -> str:
    """Text that was sent as UTF-8, whichever way the library decoded it."""
    for charset, errors in (("latin-1", "strict"), ("utf-8", "surrogateescape")):
        try:
            return text.encode(charset, errors).decode("utf-8")
        except UnicodeError:
            if value.__class__ is not str:
                break
    raise InvalidEvent(f"attribute {attribute!r} is neither ASCII nor UTF-8")
