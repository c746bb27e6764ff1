"""Syntax tree to closures.

Each node becomes one function from an event's attributes to a value, made for its operator and for what is known
about its operands' types, so that an evaluation looks nothing up and decides only what depends on the event. An error
is a `Failure` on its way up; that gives section 4.1's fail-fast mode for nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from headrace.cloudevents.sql.functions import Functions
from headrace.cloudevents.sql.pattern import matcher
from headrace.cloudevents.sql.syntax import Attribute, Call, Chain, Exists, In, Like, Literal, Minus, Node, Not
from headrace.cloudevents.sql.values import (
    ZERO,
    Failure,
    Value,
    in_range,
    of_attribute,
    to_boolean,
    to_integer,
    to_string,
)

Attributes = dict[str, Any]
Run = Callable[[Attributes], Any]

_LOGIC: Final = frozenset(("AND", "OR", "XOR"))
_EQUALITY: Final = frozenset(("=", "!="))
_ORDER: Final[dict[str, Callable[[int, int], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Compiled(NamedTuple):
    """A node as a function, and the type of its values; None where only the event can tell."""

    run: Run
    kind: type | None


def compile_tree(node: Node, functions: Functions) -> Compiled:
    """The function of a node and of everything below it."""
    match node:
        case Literal(value):
            return Compiled(lambda attributes: value, type(value))
        case Attribute(name):
            return Compiled(_attribute(name), None)
        case Exists(name):
            return Compiled(lambda attributes: name in attributes, bool)
        case Not(operand):
            truth = _as_boolean(compile_tree(operand, functions))
            return Compiled(lambda attributes: not truth(attributes), bool)
        case Minus(operand):
            number = _as_integer(compile_tree(operand, functions))
            return Compiled(lambda attributes: in_range(-number(attributes)), int)
        case Like(operand, pattern, negated):
            return Compiled(_like(operand, pattern, negated, functions), bool)
        case In(operand, members, negated):
            return Compiled(_in(operand, members, negated, functions), bool)
        case Chain(first, rest):
            return _chain(first, rest, functions)
        case Call(name, arguments):
            return _call(name, arguments, functions)


def missing_functions(node: Node, functions: Functions) -> list[str]:
    """Every call in a tree that no function answers, as it would be written."""
    match node:
        case Not(operand) | Minus(operand) | Like(operand):
            return missing_functions(operand, functions)
        case In(operand, members):
            below: tuple[Node, ...] = (operand, *members)
        case Chain(first, rest):
            below = (first, *(right for _, right in rest))
        case Call(_, arguments):
            below = arguments
        case _:
            return []
    missing = [name for child in below for name in missing_functions(child, functions)]
    if isinstance(node, Call) and functions.find(node.name, len(node.arguments)) is None:
        missing.append(f"{node.name} with {len(node.arguments)} arguments")
    return missing


def _absent(name: str) -> Failure:
    return Failure("missingAttribute", f"the event has no attribute {name!r}")


def _attribute(name: str) -> Run:
    def attribute(attributes: Attributes) -> Value:
        value = attributes.get(name)
        if value.__class__ is str:
            return value
        if value is None:
            raise _absent(name)
        return of_attribute(value)

    return attribute


def _as_boolean(compiled: Compiled) -> Run:
    run, kind = compiled
    return run if kind is bool else lambda attributes: to_boolean(run(attributes))


def _as_integer(compiled: Compiled) -> Run:
    run, kind = compiled
    return run if kind is int else lambda attributes: to_integer(run(attributes))


def _as_string(compiled: Compiled) -> Run:
    run, kind = compiled
    return run if kind is str else lambda attributes: to_string(run(attributes))


_AS: Final = {bool: _as_boolean, int: _as_integer, str: _as_string}
_TO: Final[dict[type, Callable[[Value], Value]]] = {bool: to_boolean, int: to_integer, str: to_string}


def _like(operand: Node, pattern: str, negated: bool, functions: Functions) -> Run:
    matches = matcher(pattern)
    text = _as_string(compile_tree(operand, functions))
    if negated:
        return lambda attributes: not matches(text(attributes))
    if not isinstance(operand, Attribute):
        return lambda attributes: matches(text(attributes))
    name = operand.name

    def like(attributes: Attributes) -> bool:
        value = attributes.get(name)
        return matches(value if value.__class__ is str else text(attributes))

    return like


def _in(operand: Node, members: tuple[Node, ...], negated: bool, functions: Functions) -> Run:
    left = compile_tree(operand, functions).run
    runs = [compile_tree(member, functions).run for member in members]

    def within(attributes: Attributes) -> bool:
        value = left(attributes)
        cast = _TO[type(value)]
        for run in runs:
            if cast(run(attributes)) == value:
                return not negated
        return negated

    return within


def _chain(first: Node, rest: tuple[tuple[str, Node], ...], functions: Functions) -> Compiled:
    operators = {name for name, _ in rest}
    if operators <= _LOGIC:
        runs = [_as_boolean(compile_tree(node, functions)) for node in (first, *(node for _, node in rest))]
        return Compiled(_logic(runs, [name for name, _ in rest]), bool)
    if operators <= _EQUALITY | _ORDER.keys():
        compared = compile_tree(first, functions)
        for name, node in rest:
            compared = Compiled(_comparison(name, compared, node, functions), bool)
        return compared
    number = _as_integer(compile_tree(first, functions))
    steps = [(_ARITHMETIC[name], _as_integer(compile_tree(node, functions))) for name, node in rest]

    def arithmetic(attributes: Attributes) -> int:
        value = number(attributes)
        for step, run in steps:
            value = in_range(step(value, run(attributes)))
        return value  # type: ignore[no-any-return]

    return Compiled(arithmetic, int)


def _logic(runs: list[Run], operators: list[str]) -> Run:
    kinds = set(operators)
    if kinds == {"AND"}:
        return _every(runs)
    if kinds == {"OR"}:

        def some(attributes: Attributes) -> bool:
            for run in runs:  # noqa: SIM110 - any() of a generator costs more than the operands
                if run(attributes):
                    return True
            return False

        return some
    first, steps = runs[0], list(zip(operators, runs[1:], strict=True))

    def mixed(attributes: Attributes) -> bool:
        value = first(attributes)
        for name, run in steps:
            if name == "XOR":
                value = value is not run(attributes)
            elif value is (name == "AND"):
                value = run(attributes)
        return value  # type: ignore[no-any-return]

    return mixed


def _every(runs: list[Run]) -> Run:
    if len(runs) == 2:
        one, two = runs
        return lambda attributes: one(attributes) and two(attributes)
    if len(runs) == 3:
        one, two, three = runs
        return lambda attributes: one(attributes) and two(attributes) and three(attributes)

    def every(attributes: Attributes) -> bool:
        for run in runs:  # noqa: SIM110 - all() of a generator costs more than the operands
            if not run(attributes):
                return False
        return True

    return every


def _comparison(name: str, left: Compiled, right: Node, functions: Functions) -> Run:
    if name in _ORDER:
        return _ordered(_ORDER[name], _as_integer(left), right, functions)
    wanted = name == "="
    compiled = compile_tree(right, functions)
    if isinstance(right, Literal):
        constant = right.value
        value = _AS[type(constant)](left)
        return lambda attributes: (value(attributes) == constant) is wanted
    run, other = left.run, compiled.run

    def equal(attributes: Attributes) -> bool:
        mine = run(attributes)
        theirs = other(attributes)
        # The right operand's type chooses the operator (section 3.7).
        return (_TO[type(theirs)](mine) == theirs) is wanted

    return equal


def _ordered(compare: Callable[[int, int], bool], left: Run, right: Node, functions: Functions) -> Run:
    if isinstance(right, Literal) and type(right.value) is int:
        constant = right.value
        if compare is operator.gt:
            return lambda attributes: left(attributes) > constant
        return lambda attributes: compare(left(attributes), constant)
    other = _as_integer(compile_tree(right, functions))
    return lambda attributes: compare(left(attributes), other(attributes))


def _divided(dividend: int, divisor: int) -> int:
    if divisor == 0:
        raise Failure("math", f"{dividend} is divided by 0", 0)
    quotient = abs(dividend) // abs(divisor)
    return quotient if (dividend < 0) is (divisor < 0) else -quotient


def _remainder(dividend: int, divisor: int) -> int:
    if divisor == 0:
        raise Failure("math", f"{dividend} is divided by 0", 0)
    rest = abs(dividend) % abs(divisor)
    return -rest if dividend < 0 else rest


_ARITHMETIC: Final[dict[str, Callable[[int, int], int]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divided,
    "%": _remainder,
}


def _call(name: str, arguments: tuple[Node, ...], functions: Functions) -> Compiled:
    function = functions.find(name, len(arguments))
    if function is None:
        return Compiled(_unknown(name, len(arguments)), bool)
    compiled = [compile_tree(argument, functions) for argument in arguments]
    zero = ZERO[function.returns]
    if name == "INT" and isinstance(arguments[0], Attribute):
        return Compiled(_attribute_as_integer(arguments[0].name), int)
    call = function.call
    if len(compiled) == 1:
        cast, run = function.casts(1)[0], compiled[0].run

        def call_one(attributes: Attributes) -> Value:
            try:
                argument = cast(run(attributes))
            except Failure as failure:
                failure.value = zero
                raise
            return call(argument)

        return Compiled(call_one, function.returns)
    steps = list(zip(function.casts(len(compiled)), [argument.run for argument in compiled], strict=True))

    def call_many(attributes: Attributes) -> Value:
        try:
            values = [cast(run(attributes)) for cast, run in steps]
        except Failure as failure:
            # An argument's error is this call's, whose value is the zero value of its own type.
            failure.value = zero
            raise
        return call(*values)

    return Compiled(call_many, function.returns)


def _attribute_as_integer(name: str) -> Run:
    def integer(attributes: Attributes) -> int:
        value = attributes.get(name)
        if value.__class__ is str and len(value) < 10 and value.isdigit() and value.isascii():
            return int(value)
        if value.__class__ is int:
            return value
        if value is None:
            failure = _absent(name)
            failure.value = 0
            raise failure
        return to_integer(of_attribute(value))

    return integer


def _unknown(name: str, count: int) -> Run:
    def unknown(attributes: Attributes) -> bool:
        raise Failure("missingFunction", f"there is no function {name} with {count} arguments")

    return unknown
