"""The three types of CESQL, their casts, and how an evaluation fails.

A value is a Python bool, int or str. Evaluation stops at the first error by raising `Failure`, which carries the
error's kind and the value that goes with it; nothing outside the package sees it.

Source: CESQL 1.0.0, sections 3.1, 3.3 and 3.7.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal, TypeAlias

from headrace.cloudevents.types import INTEGER_MAX, INTEGER_MIN, canonical

Value: TypeAlias = bool | int | str

Kind: TypeAlias = Literal[
    "parse", "math", "cast", "missingFunction", "functionEvaluation", "missingAttribute", "generic"
]
"""The kinds of error, named as the conformance kit names them."""

ZERO: Final[dict[type, Value]] = {bool: False, int: 0, str: ""}
"""The value of an operation that failed, by its type; Boolean where the type is not known (section 3.2)."""


class Failure(Exception):
    """An error in the evaluation: its kind, what happened, and the value of the operation that failed."""

    def __init__(self, kind: Kind, message: str, value: Value = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.value = value


def to_boolean(value: Value) -> bool:
    """Cast to Boolean; text is true or false in any case, an Integer is true unless 0."""
    if value is True or value is False:
        return value
    if isinstance(value, int):
        return value != 0
    text = value.lower()
    if text == "true":
        return True
    if text == "false":
        return False
    raise Failure("cast", f"{value[:64]!r} is no Boolean", False)


def to_integer(value: Value) -> int:
    """Cast to Integer; text is decimal ASCII digits with an optional sign, within 32 bits."""
    if value.__class__ is int:
        return int(value)
    if isinstance(value, bool):
        return 1 if value else 0
    text = str(value)
    digits = text[1:] if text[:1] in ("+", "-") else text
    # Ten digits hold any 32-bit number; leading zeros beyond that are stripped before Python sees a long number.
    if digits.isascii() and digits.isdigit():
        if len(digits) > 10:
            digits = digits.lstrip("0") or "0"
        if len(digits) <= 10:
            number = -int(digits) if text[0] == "-" else int(digits)
            if INTEGER_MIN <= number <= INTEGER_MAX:
                return number
    raise Failure("cast", f"{text[:64]!r} is no Integer", 0)


def to_string(value: Value) -> str:
    """Cast to String."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def of_attribute(value: bool | int | str | bytes | datetime) -> Value:
    """An attribute in its CESQL type; what is no primitive there is its canonical string (section 3.2)."""
    return value if isinstance(value, (str, int)) else canonical(value)


def in_range(number: int) -> int:
    """An arithmetic result, refused where 32 bits cannot hold it."""
    if INTEGER_MIN <= number <= INTEGER_MAX:
        return number
    raise Failure("math", f"{number} is outside the Integer range", 0)
