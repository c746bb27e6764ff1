"""Bearer tokens of requests: in the Authorization header, or as access_token in the query (http-webhook.md, section 3).

Tokens are kept as digests, each compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence

from headrace.cloudevents.webhook import access_token
from headrace.errors import InvalidEvent
from headrace.http.answers import Refused

__all__ = ["Tokens"]

_CHALLENGE = ((b"www-authenticate", b"Bearer"),)


class Tokens:
    """The tokens of which a request must carry one; several are for rotation."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = [_digest(token) for token in tokens]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, headers: Sequence[tuple[bytes, bytes]], query: bytes) -> None:
        """Let a request pass. Raises `Refused`: 401 without a token or with a wrong one, 400 with two."""
        try:
            token = access_token(headers, query.decode("latin-1"))
        except InvalidEvent as error:
            raise Refused(400, str(error)) from None
        if token is None:
            raise Refused(401, "send a bearer token in the Authorization header", headers=_CHALLENGE)
        given = _digest(token)
        if not any(hmac.compare_digest(given, known) for known in self._digests):
            raise Refused(401, "the bearer token is not one of this receiver's", headers=_CHALLENGE)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
