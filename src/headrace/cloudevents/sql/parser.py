"""Expression text to syntax tree: a hand-written precedence parser.

Precedence, highest first (section 3.6): calls; NOT and unary minus; LIKE and IN; `* / %`; `+ -`; comparisons; AND, OR
and XOR together. Every binary operator associates to the left.
"""

from __future__ import annotations

from typing import Final

from headrace.cloudevents.sql.lexer import Token, tokens
from headrace.cloudevents.sql.syntax import Attribute, Call, Chain, Exists, In, Like, Literal, Minus, Node, Not
from headrace.cloudevents.types import INTEGER_MAX, INTEGER_MIN
from headrace.errors import InvalidExpression

_LENGTH_LIMIT: Final = 64 * 1024
_DEPTH_LIMIT: Final = 60
_HEIGHT_LIMIT: Final = 120

_LEVELS: Final = (
    frozenset(("AND", "OR", "XOR")),
    frozenset(("=", "!=", "<>", "<", "<=", ">", ">=")),
    frozenset(("+", "-")),
    frozenset(("*", "/", "%")),
)


def parse_tree(expression: str) -> Node:
    """The syntax tree of an expression.

    Raises:
        InvalidExpression: the text is no expression, or longer or nested deeper than any written by a person is.
    """
    if len(expression) > _LENGTH_LIMIT:
        raise InvalidExpression(f"the expression is longer than {_LENGTH_LIMIT} characters", expression, _LENGTH_LIMIT)
    node = _Parser(expression).whole()
    if _height(node) > _HEIGHT_LIMIT:
        raise InvalidExpression(f"more than {_HEIGHT_LIMIT} operations depend on one another", expression, 0)
    return node


def _height(node: Node) -> int:
    """How many operations wait for one another at most, which is how deep an evaluation recurses."""
    highest = 0
    waiting = [(node, 1)]
    while waiting:
        item, height = waiting.pop()
        highest = max(highest, height)
        match item:
            case Not(operand) | Minus(operand) | Like(operand):
                waiting.append((operand, height + 1))
            case In(operand, members):
                waiting.extend((child, height + 1) for child in (operand, *members))
            case Call(_, arguments):
                waiting.extend((child, height + 1) for child in arguments)
            case Chain(first, rest):
                # Comparisons in a row are nested, for each casts the result of the one before; others are not.
                own = len(rest) if rest[0][0] in _LEVELS[1] else 1
                waiting.extend((child, height + own) for child in (first, *(right for _, right in rest)))
            case _:
                continue
    return highest


class _Parser:
    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.tokens = tokens(expression)
        self.index = 0
        self.depth = 0

    def whole(self) -> Node:
        node = self.binary(0)
        if self.now.kind != "end":
            raise self.error(f"expected an operator or the end, not {self.named()}")
        return node

    @property
    def now(self) -> Token:
        return self.tokens[self.index]

    def error(self, problem: str, token: Token | None = None) -> InvalidExpression:
        return InvalidExpression(problem, self.expression, (token or self.now).position)

    def named(self) -> str:
        return "the end" if self.now.kind == "end" else repr(self.now.text)

    def take(self) -> Token:
        token = self.now
        self.index += 1
        return token

    def at(self, text: str, kind: str = "operator", *, ahead: int = 0) -> bool:
        index = self.index + ahead
        return index < len(self.tokens) and self.tokens[index].kind == kind and self.tokens[index].text == text

    def expect(self, text: str) -> None:
        if not self.at(text):
            raise self.error(f"expected {text!r}, not {self.named()}")
        self.take()

    def binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self.postfix()
        first = self.binary(level + 1)
        rest: list[tuple[str, Node]] = []
        while self.now.kind in ("operator", "keyword") and self.now.text in _LEVELS[level]:
            operator = self.take().text
            rest.append(("!=" if operator == "<>" else operator, self.binary(level + 1)))
        return Chain(first, tuple(rest)) if rest else first

    def postfix(self) -> Node:
        node = self.unary()
        while True:
            negated = self.at("NOT", "keyword")
            if self.at("LIKE", "keyword", ahead=negated):
                self.index += 1 + negated
                if self.now.kind != "string":
                    raise self.error(f"the pattern of LIKE must be a string literal, not {self.named()}")
                node = Like(node, self.take().text, negated)
            elif self.at("IN", "keyword", ahead=negated):
                self.index += 1 + negated
                self.expect("(")
                members = self.listed()
                if not members:
                    raise self.error("the set of IN must not be empty", self.tokens[self.index - 1])
                node = In(node, members, negated)
            else:
                return node

    def unary(self) -> Node:
        self.depth += 1
        if self.depth > _DEPTH_LIMIT:
            raise self.error(f"nested more than {_DEPTH_LIMIT} deep")
        try:
            if self.at("NOT", "keyword"):
                self.take()
                return Not(self.unary())
            if self.at("-") or self.at("+"):
                return self.signed()
            return self.primary()
        finally:
            self.depth -= 1

    def signed(self) -> Node:
        sign = self.take()
        if self.now.kind == "number" and self.now.position == sign.position + 1:
            return self.number(sign)
        if sign.text == "+":
            raise self.error("a plus sign belongs to a number", sign)
        return Minus(self.unary())

    def number(self, sign: Token | None = None) -> Node:
        token = self.take()
        digits = token.text.lstrip("0") or "0"
        value = int(digits) if len(digits) <= 10 else INTEGER_MAX + 2
        if sign is not None and sign.text == "-":
            value = -value
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise self.error("the number is outside the Integer range of -2147483648 to 2147483647", sign or token)
        return Literal(value)

    def primary(self) -> Node:
        token = self.now
        if token.kind == "string":
            return Literal(self.take().text)
        if token.kind == "number":
            return self.number()
        if token.kind == "keyword" and token.text in ("TRUE", "FALSE"):
            return Literal(self.take().text == "TRUE")
        if self.at("EXISTS", "keyword"):
            self.take()
            return Exists(self.attribute())
        if self.at("("):
            self.take()
            node = self.binary(0)
            self.expect(")")
            return node
        if token.kind == "name":
            if self.at("(", ahead=1):
                return self.call()
            return Attribute(self.attribute())
        raise self.error(f"expected a value, not {self.named()}")

    def attribute(self) -> str:
        token = self.now
        if token.kind not in ("name", "number") or "_" in token.text:
            raise self.error(f"expected an attribute name, not {self.named()}")
        return self.take().text.lower()

    def call(self) -> Node:
        name = self.take()
        if not name.text.replace("_", "").isalpha() or name.text.startswith("_"):
            raise self.error("a function's name is letters and underscores, the first a letter", name)
        self.take()
        return Call(name.text.upper(), self.listed())

    def listed(self) -> tuple[Node, ...]:
        """Expressions up to the closing parenthesis, the opening one having been read."""
        if self.at(")"):
            self.take()
            return ()
        members = [self.binary(0)]
        while self.at(","):
            self.take()
            members.append(self.binary(0))
        self.expect(")")
        return tuple(members)
