"""The pure parts of web hooks: the validation handshake, and where a delivery carries its access token.

A sender asks with OPTIONS before it delivers; the answer's headers, not its status, say whether it may. Whoever
serves HTTP calls these with the headers of a request and sends what they return. Source: CloudEvents HTTP 1.1 Web
Hooks 1.0.2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from headrace.cloudevents.headervalue import value_text
from headrace.errors import ConfigurationError, InvalidEvent

ANY: Final = "*"

REQUEST_ORIGIN: Final = "webhook-request-origin"
REQUEST_CALLBACK: Final = "webhook-request-callback"
REQUEST_RATE: Final = "webhook-request-rate"


class Validation(NamedTuple):
    """What a sender asks for with OPTIONS."""

    origin: str
    """A DNS expression that names the sending system."""
    rate: int | None
    """The requests per minute that it would like to send."""
    callback: str | None
    """An https URL that grants permission later when it is requested with GET or POST."""


def validation(headers: Iterable[tuple[Any, Any]]) -> Validation | None:
    """Read a validation request; None where the request is none (it names no origin).

    Raises:
        InvalidEvent: a rate that is no positive integer, a callback that is no https URL, or a header given twice.
    """
    asked: dict[str, str] = {}
    for name, value in headers:
        key = value_text(name).lower()
        if key in (REQUEST_ORIGIN, REQUEST_CALLBACK, REQUEST_RATE):
            if key in asked:
                raise InvalidEvent(f"the request has more than one {key} header")
            asked[key] = value_text(value).strip()
    origin = asked.get(REQUEST_ORIGIN)
    if not origin:
        return None
    return Validation(origin, _rate(asked.get(REQUEST_RATE)), _callback(asked.get(REQUEST_CALLBACK)))


def consent(
    request: Validation, *, origins: Collection[str], rate: int | None = None, by_callback: bool = False
) -> list[tuple[str, str]]:
    """The headers of the answer to a validation request (section 4.2).

    Args:
        request: what the sender asks for.
        origins: the origins that may deliver, compared exactly; `*` allows every origin.
        rate: the most requests per minute that any sender is allowed; None for no limit.
        by_callback: permission is granted later by requesting the callback, so this answer withholds it.

    Returns:
        `Allow` always; `WebHook-Allowed-Origin` and `WebHook-Allowed-Rate` if and only if the sender may deliver.

    Raises:
        ConfigurationError: a rate that is not positive.
    """
    if rate is not None and rate < 1:
        raise ConfigurationError(f"the allowed rate of a web hook is {rate}: give at least 1 request per minute")
    headers = [("Allow", "POST, OPTIONS")]
    if by_callback or not allows(request.origin, origins):
        return headers
    return [
        *headers,
        ("WebHook-Allowed-Origin", request.origin),
        ("WebHook-Allowed-Rate", allowed_rate(request, rate=rate)),
    ]


def allowed_rate(request: Validation, *, rate: int | None = None) -> str:
    """The rate that is granted: the lower of what is asked for and what is allowed, `*` where neither is given."""
    limits = [limit for limit in (request.rate, rate) if limit is not None]
    return str(min(limits)) if limits else ANY


def allows(origin: str | None, origins: Collection[str]) -> bool:
    """Whether a sender may deliver, by the exact `WebHook-Request-Origin` of its validation or delivery request."""
    return ANY in origins or (origin is not None and origin in origins)


def access_token(headers: Iterable[tuple[Any, Any]], query: str = "") -> str | None:
    """The bearer token of a delivery, from its `Authorization` header or the `access_token` of its query (section 3).

    Raises:
        InvalidEvent: more than one token (RFC 6750, section 2).
    """
    found: list[str] = []
    for name, value in headers:
        if value_text(name).lower() == "authorization":
            scheme, _, token = value_text(value).strip().partition(" ")
            if scheme.lower() == "bearer" and token.strip():
                found.append(token.strip())
    try:
        found.extend(parse_qs(query, max_num_fields=100).get("access_token", ()))
    except ValueError:
        raise InvalidEvent("the query of the request has more than 100 fields") from None
    if len(found) > 1:
        raise InvalidEvent("the request carries more than one access token: send it once, in the Authorization header")
    return found[0] if found else None


def _rate(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) > 0):
        raise InvalidEvent(f"{REQUEST_RATE} is {text[:32]!r}: it must be a positive integer of requests per minute")
    return int(text)


def _callback(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme != "https" or not parts.netloc:
        raise InvalidEvent(f"{REQUEST_CALLBACK} must be an https URL")
    return text
