"""The webhook validation handshake: a sender asks by OPTIONS whether its events are wanted here.

Source: CloudEvents http-webhook.md 1.0.2, section 4. Consent is in the headers, not in the status: a sender that is not
allowed gets the same 200 without them. Consent is given in the answer; a ``WebHook-Request-Callback`` is never called,
because a URL from a request would let anybody have us call anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.http.answers import Answer

if TYPE_CHECKING:
    from headrace.http.receiver import Receiver
    from headrace.http.request import Headers

__all__ = ["handshake"]


def handshake(receiver: Receiver, headers: Headers) -> Answer:
    """The answer to OPTIONS: the methods, and the consent where the origin is allowed, compared exactly."""
    asked = dict(headers)
    answer = [(b"allow", ", ".join((*receiver.methods, "OPTIONS")).encode()), (b"content-length", b"0")]
    origin = asked.get(b"webhook-request-origin", b"").strip()
    allowed = receiver.allowed_origins
    if origin and ("*" in allowed or origin.decode("latin-1") in allowed):
        answer.append((b"webhook-allowed-origin", origin))
        rate = _rate(asked.get(b"webhook-request-rate"), receiver.allowed_rate)
        if rate is not None:
            answer.append((b"webhook-allowed-rate", rate))
    return Answer(200, answer)


def _rate(asked: bytes | None, granted: int | None) -> bytes | None:
    """Requests a minute: the smaller of what is asked for and what is granted; ``*`` for no limit."""
    if granted is None:
        return None if asked is None else b"*"
    if asked is not None and asked.strip().isdigit() and int(asked) > 0:
        return str(min(int(asked), granted)).encode()
    return str(granted).encode()
