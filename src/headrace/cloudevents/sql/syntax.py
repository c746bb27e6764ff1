"""The syntax tree of an expression, as the parser leaves it and the compiler takes it.

Operators of one precedence that stand in a row are one node with many operands, not a tree as deep as the row is
long: depth is what recursion costs, and only nesting in the text makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from headrace.cloudevents.sql.values import Value


@dataclass(frozen=True, slots=True)
class Literal:
    value: Value


@dataclass(frozen=True, slots=True)
class Attribute:
    name: str


@dataclass(frozen=True, slots=True)
class Exists:
    name: str


@dataclass(frozen=True, slots=True)
class Not:
    operand: Node


@dataclass(frozen=True, slots=True)
class Minus:
    operand: Node


@dataclass(frozen=True, slots=True)
class Like:
    operand: Node
    pattern: str
    negated: bool


@dataclass(frozen=True, slots=True)
class In:
    operand: Node
    members: tuple[Node, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """Operators of one precedence with their operands: `first op operand op operand …`, to be read from the left."""

    first: Node
    rest: tuple[tuple[str, Node], ...]


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: tuple[Node, ...]


Node: TypeAlias = Literal | Attribute | Exists | Not | Minus | Like | In | Chain | Call
