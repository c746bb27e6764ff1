"""Text made safe to show: secrets hidden, control characters escaped.

A log line is read by people in terminals and by machines line by line; what an event, a URL or an exception brings
into it must neither end the line, nor move the cursor, nor tell a password.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["HIDDEN", "escape", "is_secret_name", "redact"]

HIDDEN: Final = "***"

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SECRET_NAME = re.compile(
    r"(?:^|[_\-.])(?:password|passwd|pwd|secret|token|api[_\-]?key|authorization"
    r"|cookie|credentials?|signature|seed|creds)$",
    re.IGNORECASE,
)
_URL_ACCOUNT = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.\-]*://)(?P<account>[^/\s@'\"]+)@", re.IGNORECASE)
_PAIR = re.compile(
    r"(?P<name>\b[\w\-]*(?:password|passwd|secret|token|api[_\-]?key|signature|credential))"
    r"(?P<sign>['\"]?\s*[=:]\s*['\"]?)(?P<value>[^\s&'\",;]+)",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(?P<scheme>bearer|basic)\s+(?P<value>[A-Za-z0-9._~+/\-]{6,}=*)", re.IGNORECASE)
_JWT = re.compile(r"\beyJ[\w\-]{8,}\.[\w\-]+\.[\w\-]*")
_NKEY_SEED = re.compile(r"\bS[ACNOUX][A-Z2-7]{56}\b")


def redact(text: str) -> str:
    """The text without passwords in URLs, tokens, authorization values, JSON Web Tokens and nkey seeds."""
    if "://" in text and "@" in text:
        text = _URL_ACCOUNT.sub(_account, text)
    text = _SCHEME.sub(rf"\g<scheme> {HIDDEN}", text)
    text = _PAIR.sub(rf"\g<name>\g<sign>{HIDDEN}", text)
    text = _JWT.sub(HIDDEN, text)
    return _NKEY_SEED.sub(HIDDEN, text)


def _account(match: re.Match[str]) -> str:
    user, colon, _ = match["account"].partition(":")
    # Without a colon the whole of it is a token, as NATS writes it.
    return f"{match['scheme']}{user}:{HIDDEN}@" if colon else f"{match['scheme']}{HIDDEN}@"


def is_secret_name(name: str) -> bool:
    """Whether a field of this name is hidden whatever it holds."""
    return _SECRET_NAME.search(name) is not None


def escape(text: str) -> str:
    """The text on one line, with control, line and direction characters and lone surrogates as escapes."""
    return _CONTROL.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    short = {9: "\\t", 10: "\\n", 13: "\\r"}.get(code)
    return short or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
