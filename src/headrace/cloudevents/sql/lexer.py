"""Expression text to tokens.

Each token knows its place in the text, so that an error can be marked there. A sign belongs to a number only where an
operand may stand, which the parser knows and the lexer does not: `4-1` is three tokens.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from headrace.errors import InvalidExpression

KEYWORDS: Final = frozenset(("AND", "OR", "XOR", "NOT", "LIKE", "IN", "EXISTS", "TRUE", "FALSE"))

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<string>'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")
    | (?P<word>[A-Za-z0-9_]+)
    | (?P<operator><>|!=|<=|>=|[=<>+\-*/%(),])
    """,
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    kind: str
    """"string", "number", "name", "keyword", "operator" or "end"."""
    text: str
    """Keywords in upper case, strings without their quotes, everything else as written."""
    position: int


def tokens(expression: str) -> list[Token]:
    """Every token of an expression, the last of kind "end".

    Raises:
        InvalidExpression: a character that starts no token, or a string that does not end.
    """
    found: list[Token] = []
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            character = expression[position]
            problem = "a string that does not end" if character in "'\"" else f"unexpected character {character!r}"
            raise InvalidExpression(problem, expression, position)
        kind, text = str(match.lastgroup), match.group()
        if kind == "string":
            # Only the quote itself is escaped; every other backslash stays, LIKE needs it.
            found.append(Token(kind, text[1:-1].replace("\\" + text[0], text[0]), position))
        elif kind == "word":
            found.append(_word(text, position))
        elif kind == "operator":
            found.append(Token(kind, text, position))
        position = match.end()
    found.append(Token("end", "", position))
    return found


def _word(text: str, position: int) -> Token:
    if text.isdigit():
        return Token("number", text, position)
    if text.upper() in KEYWORDS:
        return Token("keyword", text.upper(), position)
    return Token("name", text, position)
