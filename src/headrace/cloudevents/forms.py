"""How an event holds its data, in the few words that `Event` needs before any data is encoded or decoded.

Apart from `data`, so that importing `Event` does not import a codec: it comes with the first event that is read.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from headrace.cloudevents.media import media
from headrace.errors import InvalidEvent

__all__ = ["BODY", "BYTES", "JSON", "PENDING", "TEXT", "Form", "form_of", "form_of_bytes"]

Form: TypeAlias = int
BODY: Final[Form] = 0
"""The body of a binary-mode message: whatever the content type says."""
JSON: Final[Form] = 1
"""A JSON value, application/json where no content type is given."""
TEXT: Final[Form] = 2
"""A text of a content type other than JSON."""
BYTES: Final[Form] = 3
"""Bytes that were given as bytes, or came as `data_base64`."""


_WHITE_SPACE: Final = (b"", b" ", b"\t", b"\r", b"\n")


class _Pending:
    __slots__ = ()

    def __repr__(self) -> str:
        return "PENDING"


PENDING: Final[Any] = _Pending()
"""Stands for data that has not been encoded, or not been decoded, yet."""


def form_of(data: Any, content_type: str | None) -> Form:
    """The form of a value that is not bytes.

    Raises:
        InvalidEvent: a value that is no text with a content type that is not JSON.
    """
    if content_type is None or media(content_type).is_json:
        return JSON
    if isinstance(data, str):
        return TEXT
    raise InvalidEvent(
        f"data of type {type(data).__name__} cannot be encoded as {content_type!r}: pass bytes or str, "
        "or declare a JSON content type"
    )


def form_of_bytes(data: bytes, content_type: str | None) -> Form:
    """The form of bytes that are given as data: a JSON text where the content type says so, else bytes.

    White space around a JSON value is no part of it, and would be lost where the value is written into an envelope.
    """
    if content_type is None or data[:1] in _WHITE_SPACE or data[-1:] in _WHITE_SPACE:
        return BYTES
    return BODY if media(content_type).is_json else BYTES
