"""The API server's refusals: one value (`Status`), one exception (`ApiError`), and the predicates that recovery asks.

The server says the same thing in several shapes, by version and by path (an HTTP status, an ERROR event of a watch);
what they mean is decided here and nowhere else. Source: k8s.io/apimachinery, meta/v1 Status and StatusReason.
"""

from __future__ import annotations

from typing import Final

import msgspec

from headrace.errors import HeadraceError

__all__ = ["ApiError", "Status", "decode_status", "is_gone", "is_too_large_version"]

_TOO_LARGE: Final = "Too large resource version"


class Cause(msgspec.Struct, frozen=True):
    """One reason beneath a Status."""

    reason: str = ""
    message: str = ""
    field: str = ""


class Details(msgspec.Struct, frozen=True, rename="camel"):
    """What a Status knows beyond its message."""

    name: str = ""
    kind: str = ""
    causes: list[Cause] = []
    retry_after_seconds: int = 0


class Status(msgspec.Struct, frozen=True):
    """A metav1.Status. ``code`` is the HTTP status that it stands for; ``reason`` a CamelCase word."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: Details | None = None

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asked to wait, or ``None``."""
        if self.details is None or self.details.retry_after_seconds <= 0:
            return None
        return float(self.details.retry_after_seconds)

    @property
    def causes(self) -> list[Cause]:
        return [] if self.details is None else self.details.causes


_decoder = msgspec.json.Decoder(Status)


def decode_status(body: bytes, code: int) -> Status:
    """The Status in a body, or one made of the HTTP status and the first of the text where a proxy answered instead."""
    try:
        status = _decoder.decode(body)
    except msgspec.MsgspecError:
        text = body[:200].decode("utf-8", "replace").strip()
        return Status(code=code, message=text or f"HTTP {code}")
    if status.code == 0:
        return msgspec.structs.replace(status, code=code)
    return status


def is_gone(status: Status) -> bool:
    """The version asked for is no longer in history (410 as HTTP status, as ERROR event, or by reason alone)."""
    return status.code == 410 or status.reason in ("Expired", "Gone")


def is_too_large_version(status: Status) -> bool:
    """The version asked for is ahead of the server: by cause (1.18.6 and later), by the cause's message (1.17.0 to
    1.18.5), or by the message alone (before 1.17)."""
    if any(cause.reason == "ResourceVersionTooLarge" for cause in status.causes):
        return True
    if status.code != 504 and status.reason != "Timeout":
        return False
    return _TOO_LARGE in status.message or any(_TOO_LARGE in cause.message for cause in status.causes)


class ApiError(HeadraceError):
    """The API server refused a request.

    Args:
        status: what it said.
        what: the request, in words (``GET /api/v1/pods``).
        retry_after: seconds it asked to wait; the header wins over the Status' own details.
    """

    def __init__(self, status: Status, what: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"{what}: the API server answered {status.code} {status.reason}: {status.message}")
        self.status = status
        self.what = what
        self.code = status.code
        self.reason = status.reason
        self.retry_after = status.retry_after if retry_after is None else retry_after
