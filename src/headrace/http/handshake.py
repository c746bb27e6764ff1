"""The webhook validation handshake: a sender asks by OPTIONS whether its events are wanted here.

Consent is in the headers, not in the status: a sender that is not allowed gets the same 200 without them (CloudEvents
http-webhook.md 1.0.2, section 4). A ``WebHook-Request-Callback`` is requested only where the receiver names its host,
and consent is withheld from the answer then; else consent is in the answer, and the callback is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.cloudevents.webhook import consent, validation
from headrace.errors import InvalidEvent
from headrace.http.answers import Answer, Refused

if TYPE_CHECKING:
    from headrace.http.grants import Grants
    from headrace.http.receiver import Receiver
    from headrace.http.request import Headers

__all__ = ["handshake"]


def handshake(receiver: Receiver, grants: Grants, headers: Headers) -> Answer:
    """The answer to OPTIONS: the methods, and the consent where the origin is allowed. Raises `Refused` (400)."""
    answer = [(b"allow", ", ".join((*receiver.methods, "OPTIONS")).encode()), (b"content-length", b"0")]
    try:
        asked = validation(headers)
    except InvalidEvent as error:
        raise Refused(400, str(error)) from None
    if asked is not None:
        later = grants.gives(asked)
        for name, value in consent(
            asked, origins=receiver.allowed_origins, rate=receiver.allowed_rate, by_callback=later
        ):
            if name.lower() != "allow":
                answer.append((name.lower().encode(), value.encode("latin-1")))
        if later:
            grants.give(asked)
    return Answer(200, answer)
