"""What a `datacontenttype` says about bytes: whether they are JSON, whether they are text, and in which charset.

One answer, used by the data accessors, the JSON format and the bindings, so that they cannot disagree. Sources: RFC
6838 (structure of media types and the `+json`, `+xml` suffixes), CloudEvents JSON format 1.0.2, section 3.1.
"""

from __future__ import annotations

import re
from codecs import lookup
from functools import lru_cache
from typing import NamedTuple

from headrace.cloudevents.types import REMEMBERED_LENGTH
from headrace.errors import InvalidEvent

_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([A-Za-z0-9_.:+-]+)\"?", re.IGNORECASE)

# Python knows codecs that are no charsets (idna, punycode, unicode_escape) and some that take quadratic time.
_KNOWN_CHARSET = re.compile(
    r"utf-?8|(us-)?ascii|utf-?(16|32)(le|be)?|utf-(16|32)(-?(le|be))?|iso-?8859-\d{1,2}|latin-?1|windows-125\d|cp125\d"
    r"|koi8-[ru]|shift_jis|euc-(jp|kr)|gbk|gb2312|gb18030|big5",
    re.IGNORECASE,
)

_TEXT_SUBTYPES = frozenset(
    ("xml", "javascript", "ecmascript", "yaml", "x-yaml", "toml", "graphql", "sql", "x-www-form-urlencoded")
)


class Media(NamedTuple):
    """The answer for one content type."""

    essence: str
    """Type and subtype in lower case, without parameters."""
    is_json: bool
    is_text: bool
    """Bytes of this type are text that people read; never true together with `is_json`."""
    charset: str | None
    """Python's name of the charset that the type names; None where it names none or one that is not known."""
    utf8: bool
    """The bytes are UTF-8: the charset is UTF-8 or ASCII, or is not named."""


def media(content_type: str) -> Media:
    """Read a content type; anything that is none at all is neither JSON nor text."""
    return _remembered(content_type) if len(content_type) <= REMEMBERED_LENGTH else _read(content_type)


def _read(content_type: str) -> Media:
    essence = content_type.partition(";")[0].strip().lower()
    kind, _, subtype = essence.partition("/")
    is_json = subtype == "json" or subtype.endswith("+json")
    is_text = not is_json and (kind == "text" or subtype in _TEXT_SUBTYPES or subtype.endswith(("+xml", "+yaml")))
    named = _CHARSET.search(content_type)
    if named is None:
        return Media(essence, is_json, is_text, "utf-8", True)
    charset = _python_name(named.group(1))
    return Media(essence, is_json, is_text, charset, charset in ("utf-8", "ascii"))


_remembered = lru_cache(maxsize=256)(_read)


def decode_text(raw: bytes, content_type: str) -> str:
    """Bytes of a text type as str.

    Raises:
        InvalidEvent: the charset is not known, or the bytes are not in it.
    """
    charset = _charset(content_type)
    try:
        return str(raw, charset)
    except UnicodeDecodeError as error:
        raise InvalidEvent(
            f"data is declared as {content_type!r} but is not {charset} at byte {error.start}: "
            "read event.raw for the bytes, or have the producer name the charset"
        ) from None


def encode_text(text: str, content_type: str) -> bytes:
    """Text as the bytes that its content type declares.

    Raises:
        InvalidEvent: the charset is not known, or cannot write the text.
    """
    charset = _charset(content_type)
    try:
        return text.encode(charset)
    except UnicodeEncodeError as error:
        raise InvalidEvent(
            f"data cannot be written as {content_type!r}: character {error.start} is not in {charset}"
        ) from None


def _charset(content_type: str) -> str:
    charset = media(content_type).charset
    if charset is None:
        raise InvalidEvent(f"the charset of {content_type[:64]!r} is not known: read event.raw for the bytes")
    return charset


def _python_name(charset: str) -> str | None:
    if not _KNOWN_CHARSET.fullmatch(charset):
        return None
    try:
        return lookup(charset).name
    except LookupError:
        return None
