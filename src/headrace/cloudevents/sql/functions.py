"""The functions of CESQL: those that every engine has, and those that a user registers.

A function is found by name and number of arguments; several may share a name if their numbers differ, and one of them
may take any number beyond a fixed one. A user's function is a Python callable whose signature says the same: its
parameters the arguments, `*args` any number more, annotations (`str`, `int`, `bool`) the types that arguments are
cast to.

Source: CESQL 1.0.0, section 3.5.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.cloudevents.sql.values import ZERO, Failure, Value, to_boolean, to_integer, to_string
from headrace.cloudevents.types import INTEGER_MAX, INTEGER_MIN
from headrace.errors import InvalidFilter

_CASTS: Final[dict[type | None, Callable[[Value], Value]]] = {
    bool: to_boolean,
    int: to_integer,
    str: to_string,
    None: lambda value: value,
}

# Unicode's White_Space. str.strip() would also take U+001C to U+001F, which are control characters.
_WHITE_SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


@dataclass(frozen=True, slots=True)
class Function:
    """One function: how it is found, and how it is called."""

    name: str
    parameters: tuple[type | None, ...]
    """The type of each fixed argument; None takes any."""
    returns: type
    call: Callable[..., Value]
    optional: int = 0
    """How many of the fixed arguments, from the end, may be left out."""
    variadic: bool = False
    """Takes any number of arguments beyond the fixed ones, each of type `rest`."""
    rest: type | None = None

    def takes(self, count: int) -> bool:
        """Whether the function can be called with so many arguments."""
        return len(self.parameters) - self.optional <= count and (self.variadic or count <= len(self.parameters))

    def casts(self, count: int) -> list[Callable[[Value], Value]]:
        """The cast of each argument of a call with so many."""
        kinds = [*self.parameters[:count], *[self.rest] * (count - len(self.parameters))]
        return [_CASTS[kind] for kind in kinds]


class Functions:
    """A set of functions in which every name and number of arguments means at most one."""

    def __init__(self, functions: Iterable[Function]) -> None:
        self._by_name: dict[str, list[Function]] = {}
        for function in functions:
            self._add(function)

    def find(self, name: str, count: int) -> Function | None:
        """The function of a name that takes so many arguments."""
        for function in self._by_name.get(name, ()):
            if function.takes(count):
                return function
        return None

    def with_users(self, functions: Mapping[str, Any]) -> Functions:
        """These functions and a user's, each given as a callable or a sequence of callables under its upper-case name.

        Raises:
            InvalidFilter: a name, signature or annotation that no function may have, or one that is taken.
        """
        every = [function for named in self._by_name.values() for function in named]
        for name, given in functions.items():
            callables = given if isinstance(given, (list, tuple)) else (given,)
            every.extend(_of_callable(name, function) for function in callables)
        return Functions(every)

    def _add(self, function: Function) -> None:
        named = self._by_name.setdefault(function.name, [])
        for other in named:
            most = max(len(function.parameters), len(other.parameters))
            counts = range(most + 2)
            if (function.variadic and other.variadic) or any(
                function.takes(count) and other.takes(count) for count in counts
            ):
                raise InvalidFilter(
                    f"function {function.name} is defined twice for one number of arguments: "
                    "give one another name, or the variadic one more fixed arguments"
                )
        named.append(function)


def _of_callable(name: str, function: Callable[..., Any]) -> Function:
    if not name.isascii() or not name.replace("_", "").isalpha() or name != name.upper() or name.startswith("_"):
        raise InvalidFilter(f"function name {name!r} must be upper-case letters and underscores")
    if inspect.iscoroutinefunction(function):
        raise InvalidFilter(f"function {name} is a coroutine function: an expression does not wait")
    try:
        signature = inspect.signature(function, eval_str=True)
    except (TypeError, ValueError, NameError) as error:
        raise InvalidFilter(f"function {name} has no signature that can be read: {error}") from error
    parameters: list[type | None] = []
    optional = 0
    variadic, rest = False, None
    for parameter in signature.parameters.values():
        kind = _annotated(name, parameter.annotation)
        if parameter.kind is parameter.VAR_POSITIONAL:
            variadic, rest = True, kind
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            parameters.append(kind)
            optional += parameter.default is not parameter.empty
        elif parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY:
            raise InvalidFilter(f"function {name} wants a keyword argument {parameter.name!r}, which CESQL cannot give")
    returns = _annotated(name, signature.return_annotation) or bool
    return Function(name, tuple(parameters), returns, _guarded(name, function, returns), optional, variadic, rest)


def _annotated(name: str, annotation: Any) -> type | None:
    if annotation in (bool, int, str):
        return annotation  # type: ignore[no-any-return]
    if annotation in (inspect.Parameter.empty, Any, object, Value):
        return None
    raise InvalidFilter(f"function {name} is annotated with {annotation!r}: CESQL has bool, int and str")


def _guarded(name: str, function: Callable[..., Any], returns: type) -> Callable[..., Value]:
    def call(*arguments: Value) -> Value:
        try:
            value = function(*arguments)
        except Exception as error:
            raise Failure("functionEvaluation", f"{name} raised {error!r}", ZERO[returns]) from error
        if isinstance(value, (bool, str)) or (isinstance(value, int) and INTEGER_MIN <= value <= INTEGER_MAX):
            return value
        raise Failure("functionEvaluation", f"{name} returned {value!r:.64}, which is no CESQL value", ZERO[returns])

    return call


def _left(text: str, count: int) -> str:
    if count < 0:
        raise Failure("functionEvaluation", f"LEFT wants a length of 0 or more, not {count}", text)
    return text[:count]


def _right(text: str, count: int) -> str:
    if count < 0:
        raise Failure("functionEvaluation", f"RIGHT wants a length of 0 or more, not {count}", text)
    return text[max(0, len(text) - count) :]


def _substring(text: str, position: int, length: int = INTEGER_MAX) -> str:
    if not -len(text) <= position <= len(text):
        raise Failure("functionEvaluation", f"SUBSTRING has no position {position} in {len(text)} characters", "")
    if length < 0:
        raise Failure("functionEvaluation", f"SUBSTRING wants a length of 0 or more, not {length}", "")
    if position == 0:
        return ""
    start = position - 1 if position > 0 else len(text) + position
    return text[start : start + length]


def _absolute(number: int) -> int:
    if number == INTEGER_MIN:
        raise Failure("math", f"the absolute value of {number} is outside the Integer range", INTEGER_MAX)
    return abs(number)


BUILT_IN: Final = Functions(
    (
        Function("INT", (int,), int, lambda value: value),
        Function("BOOL", (bool,), bool, lambda value: value),
        Function("STRING", (str,), str, lambda value: value),
        Function("LENGTH", (str,), int, len),
        Function("CONCAT", (), str, lambda *texts: "".join(texts), variadic=True, rest=str),
        Function("CONCAT_WS", (str,), str, lambda between, *texts: between.join(texts), variadic=True, rest=str),
        Function("LOWER", (str,), str, str.lower),
        Function("UPPER", (str,), str, str.upper),
        Function("TRIM", (str,), str, lambda text: text.strip(_WHITE_SPACE)),
        Function("LEFT", (str, int), str, _left),
        Function("RIGHT", (str, int), str, _right),
        Function("SUBSTRING", (str, int, int), str, _substring, optional=1),
        Function("ABS", (int,), int, _absolute),
    )
)
