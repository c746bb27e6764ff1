"""``changes=["spec", "status.phase"]``: which fields make a new version worth an event.

The named fields of an object are condensed to a short digest. It is kept with the object's checkpoint, so that a
restart neither repeats insignificant changes nor misses significant ones.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from headrace.errors import ConfigurationError

__all__ = ["compile_digest"]

_DOT: Final = re.compile(r"(?<!\\)\.")
_ABSENT: Final = "\0absent"


def compile_digest(paths: Sequence[str]) -> Callable[[bytes], str]:
    r"""A function from an object's JSON to a digest of the fields at ``paths``.

    Args:
        paths: keys joined by dots; a dot inside a key is written ``\.``. Lists are compared whole.

    Raises:
        ConfigurationError: an empty path.
    """
    compiled = [tuple(part.replace("\\.", ".") for part in _DOT.split(path)) for path in paths]
    for path, parts in zip(paths, compiled, strict=True):
        if not all(parts):
            raise ConfigurationError(f"Watch(changes=…): {path!r} is no field path such as 'status.phase'")
    roots = sorted({parts[0] for parts in compiled})
    fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
    encoder = msgspec.json.Encoder(order="deterministic")

    def digest(raw: bytes) -> str:
        found = fields.decode(raw)
        decoded = {root: msgspec.json.decode(found[root]) for root in roots if root in found}
        values = [_at(decoded, parts) for parts in compiled]
        return hashlib.blake2b(encoder.encode(values), digest_size=9).hexdigest()

    return digest


def _at(value: Any, parts: tuple[str, ...]) -> Any:
    for part in parts:
        if not isinstance(value, dict) or part not in value:
            return _ABSENT
        value = value[part]
    return value
