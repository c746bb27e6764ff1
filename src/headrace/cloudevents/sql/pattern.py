"""LIKE patterns, compiled to string operations.

A pattern is pieces between `%`: the first and the last are tied to the ends, those between are found one after
another from the left, each at the earliest place. That is exact, and takes no more than length of text times length
of pattern, where a regular expression of many `.*` may take time without bound.

Source: CESQL 1.0.0, section 3.4.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Matcher = Callable[[str], bool]

_ANY = None
"""Stands for `_` in a piece."""

_Piece = list[str | None]


def matcher(pattern: str) -> Matcher:
    """A function that tells whether a text matches a pattern."""
    pieces = _pieces(pattern)
    if any(_ANY in piece for piece in pieces):
        return _with_wildcards(pieces)
    texts = ["".join([character for character in piece if character is not None]) for piece in pieces]
    if len(texts) == 1:
        return texts[0].__eq__
    first, *middle, last = texts
    middle = [text for text in middle if text]
    if not middle:
        if not last:
            return lambda text: text.startswith(first)
        if not first:
            return lambda text: text.endswith(last)
    shortest = len(first) + len(last)

    def matches(text: str) -> bool:
        if len(text) < shortest or not text.startswith(first) or not text.endswith(last):
            return False
        start, end = len(first), len(text) - len(last)
        for piece in middle:
            found = text.find(piece, start, end)
            if found < 0:
                return False
            start = found + len(piece)
        return True

    return matches


def _with_wildcards(pieces: list[_Piece]) -> Matcher:
    compiled = [
        re.compile("".join(["." if character is _ANY else re.escape(character) for character in piece]), re.DOTALL)
        for piece in pieces
    ]
    if len(pieces) == 1:
        only = compiled[0]
        return lambda text: only.fullmatch(text) is not None
    first, *middle, last = compiled
    shortest = len(pieces[0]) + len(pieces[-1])
    first_length, last_length = len(pieces[0]), len(pieces[-1])

    def matches(text: str) -> bool:
        end = len(text) - last_length
        if len(text) < shortest or first.match(text) is None or last.match(text, end) is None:
            return False
        start = first_length
        for piece in middle:
            found = piece.search(text, start, end)
            if found is None:
                return False
            start = found.end()
        return True

    return matches


def _pieces(pattern: str) -> list[_Piece]:
    pieces: list[_Piece] = [[]]
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "%":
            pieces.append([])
        elif character == "_":
            pieces[-1].append(_ANY)
        elif character == "\\" and pattern[position : position + 1] in ("%", "_"):
            pieces[-1].append(pattern[position])
            position += 1
        else:
            pieces[-1].append(character)
    return pieces
