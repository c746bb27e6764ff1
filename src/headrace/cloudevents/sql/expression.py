"""A parsed expression and what its evaluation gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headrace.cloudevents.sql.compiler import Compiled, compile_tree, missing_functions
from headrace.cloudevents.sql.functions import BUILT_IN, Function, Functions
from headrace.cloudevents.sql.parser import parse_tree
from headrace.cloudevents.sql.syntax import Call, Node
from headrace.cloudevents.sql.values import ZERO, Failure, Kind, Value
from headrace.errors import InvalidFilter

if TYPE_CHECKING:
    from headrace.event import Event

__all__ = ["Error", "Expression", "Function", "Result", "parse"]

_NO_FUNCTIONS: Final[Mapping[str, Any]] = {}
_BOUND_LIMIT: Final = 8


class Error(msgspec.Struct, frozen=True, gc=False):
    """One error of an evaluation."""

    kind: Kind
    """The conformance kit's name: math, cast, missingFunction, functionEvaluation, missingAttribute, generic."""
    message: str
    """What happened, in words."""


class Result(msgspec.Struct, frozen=True):
    """What an evaluation gives: always a value, and the errors, if there were any."""

    value: Value
    errors: tuple[Error, ...] = ()


def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        InvalidExpression: an `InvalidFilter` whose message shows the text with the place marked.
    """
    return Expression(text, parse_tree(text))


class Expression:
    """A parsed expression; made by `parse`, immutable, usable from many threads."""

    __slots__ = ("_bound", "_plain", "_tree", "text")

    def __init__(self, text: str, tree: Node) -> None:
        self.text = text
        self._tree = tree
        self._plain: Final = compile_tree(tree, BUILT_IN)
        self._bound: dict[frozenset[tuple[str, Any]], Compiled] = {}

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def evaluate(self, event: Event, functions: Mapping[str, Any] = _NO_FUNCTIONS) -> Result:
        """The value of the expression for an event, and the errors met. Never raises for what an event holds.

        Args:
            event: whose attributes the expression names.
            functions: functions beyond the built-in ones, each a callable under its upper-case name. Its signature
                gives the number of arguments (`*args` any number), its annotations the types that arguments are cast
                to.

        Raises:
            InvalidFilter: a function that cannot be one.
        """
        run, kind = self._compiled(functions)
        try:
            return Result(run(event._attributes))
        except Failure as failure:
            value = failure.value if isinstance(self._tree, Call) else ZERO[kind or bool]
            return Result(value, (Error(failure.kind, failure.message),))

    def predicate(self, functions: Mapping[str, Any] = _NO_FUNCTIONS) -> Callable[[Event], bool]:
        """The expression as a filter: true where it evaluates to true without an error (section 1.2).

        Raises:
            InvalidFilter: a function that is called and not there, or one that cannot be one. Such a filter would never
                match, and say nothing.
        """
        if missing := missing_functions(self._tree, _known(functions)):
            raise InvalidFilter(f"{self.text!r} calls {missing[0]}, which does not exist: register it on the app")
        run = self._compiled(functions).run

        def matches(event: Event) -> bool:
            try:
                return run(event._attributes) is True
            except Failure:
                return False

        return matches

    def _compiled(self, functions: Mapping[str, Any]) -> Compiled:
        if not functions:
            return self._plain
        try:
            key = frozenset(
                (name, tuple(given) if isinstance(given, list) else given) for name, given in functions.items()
            )
            compiled = self._bound.get(key)
        except TypeError:
            # A callable need not be hashable; it only costs that it is bound each time.
            return compile_tree(self._tree, _known(functions))
        if compiled is None:
            compiled = compile_tree(self._tree, _known(functions))
            if len(self._bound) >= _BOUND_LIMIT:
                self._bound.clear()
            self._bound[key] = compiled
        return compiled


def _known(functions: Mapping[str, Any]) -> Functions:
    return BUILT_IN.with_users(functions) if functions else BUILT_IN
