"""CESQL 1.0: the CloudEvents SQL expression language.

`parse` reads an expression once; `Expression.evaluate` is total: it gives a value and the errors met on the way, and
never raises. `Expression.predicate` is the same as a filter: any error, and any value that is not a Boolean, is no
match.

Attribute names are case-insensitive, as in the conformance kit. AND, OR and XOR have one precedence and associate to
the left, as section 3.6 has it and the official grammar does not. An error in an operand makes the result the zero
value of the operator's type, so that `1 / missing` is 0 and `1 != 1 / 0` is false, as the kit has it.

Source: CloudEvents SQL Expression Language 1.0.0.
"""

from __future__ import annotations

from headrace.cloudevents.sql.expression import Error, Expression, Function, Result, parse

__all__ = ["Error", "Expression", "Function", "Result", "parse"]
