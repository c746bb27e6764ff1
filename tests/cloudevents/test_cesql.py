"""CESQL beyond its kit: precedence, casts, overflow, functions of the user, and errors that a person can read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import Event
from headrace.cloudevents import sql
from headrace.cloudevents.sql.pattern import matcher
from headrace.errors import InvalidExpression, InvalidFilter

EVENT = Event(
    type="order.created",
    source="/shop",
    id="1",
    hop="5",
    n=7,
    flag=True,
    off=False,
    blob=b"\x00",
    time="2018-04-05T17:31:00Z",
)


def value(expression: str, **functions: Any) -> Any:
    result = sql.parse(expression).evaluate(EVENT, functions)
    assert result.errors == ()
    return result.value


def error(expression: str, **functions: Any) -> tuple[Any, str]:
    result = sql.parse(expression).evaluate(EVENT, functions)
    [only] = result.errors
    assert only.message
    return result.value, only.kind


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("2 + 3 * 4", 14),
        ("2 * 3 + 4", 10),
        ("10 - 4 - 3", 3),
        ("100 / 10 / 5", 2),
        ("7 % 4 * 2", 6),
        ("4-1", 3),
        ("4 -1", 3),
        ("4 - -1", 5),
        ("+5 + +6", 11),
        ("-(2 + 3)", -5),
        ("1 + 2 = 3", True),
        ("1 < 2 = TRUE", True),
        ("3 > 2 > 1", False),
        ("NOT TRUE = FALSE", True),
        ("NOT FALSE AND FALSE", False),
        ("TRUE OR FALSE AND FALSE", False),
        ("FALSE AND TRUE OR TRUE", True),
        ("TRUE XOR TRUE OR TRUE", True),
        ("TRUE OR TRUE XOR TRUE", False),
        ("TRUE XOR TRUE AND FALSE XOR TRUE", True),
        ("TRUE OR TRUE OR FALSE", True),
        ("TRUE AND TRUE AND TRUE AND FALSE", False),
        ("FALSE OR FALSE OR FALSE", False),
        ("1 + 1 IN (2, 3)", 1),
        ("'a' LIKE 'a' IN (TRUE)", True),
        ("NOT EXISTS missing", True),
        ("NOT TRUE LIKE 'f%'", True),
        ("--5", 5),
        ("NOT NOT TRUE", True),
        ("((((1))))", 1),
        ("LENGTH(CONCAT('a', 'b')) * 2", 4),
    ],
)
def test_precedence_and_association(expression: str, expected: Any) -> None:
    assert value(expression) == expected
    assert type(value(expression)) is type(expected)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("7 / -2", -3),
        ("-7 / -2", 3),
        ("7 % 2", 1),
        ("-7 % 2", -1),
        ("7 % -2", 1),
        ("-7 % -2", -1),
    ],
)
def test_division_rounds_towards_zero_and_the_remainder_has_the_dividends_sign(expression: str, expected: int) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    "expression",
    ["2147483647 + 1", "-2147483648 - 1", "65536 * 65536", "-2147483648 / -1", "-(-2147483648)", "1 / 0", "1 % 0"],
)
def test_what_32_bits_cannot_hold_is_a_math_error(expression: str) -> None:
    assert error(expression) == (0, "math")


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "1.0", "1e3", "--1", "+", "０", "2147483648", "-2147483649", "9" * 50_000]
)
def test_text_that_is_no_32_bit_integer_is_a_cast_error(text: str) -> None:
    assert error(f"INT('{text}')") == (0, "cast")


@pytest.mark.parametrize(
    ("text", "number"), [("+5", 5), ("-0", 0), ("007", 7), ("2147483647", 2147483647), ("0" * 50 + "1", 1)]
)
def test_text_that_is_a_32_bit_integer_is_cast(text: str, number: int) -> None:
    assert value(f"INT('{text}')") == number


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("hop = 5", True),
        ("hop < n", True),
        ("flag", True),
        ("n + TRUE", 8),
        ("flag = 'true'", True),
        ("flag = 'TRUE'", False),
        ("'TRUE' = flag", True),
        ("blob = 'AA=='", True),
        ("time", "2018-04-05T17:31:00Z"),
        ("TYPE = 'order.created'", True),
        ("n IN ('7', 8)", True),
        ("hop IN (5)", True),
        ("n = flag", True),
        ("off = 0", True),
        ("n AND flag", True),
        ("n LIKE '_'", True),
        ("hop != 6", True),
        ("hop <> 5", False),
        ("type NOT IN ('a', 'b')", True),
        ("type NOT LIKE 'a%'", True),
        ("n >= 7 AND n <= 7", True),
        ("TRIM('\u2003 x \u3000')", "x"),
        ("UPPER('straße')", "STRASSE"),
        ("SUBSTRING('abc', 2, 100)", "bc"),
        ("LEFT('abc', 0)", ""),
        ("RIGHT('abc', 0)", ""),
        ("BOOL('tRuE')", True),
        ("STRING(n)", "7"),
        (r"'it\'s'", "it's"),
        (r'"say \"x\""', 'say "x"'),
        ("\tTRUE\r\n", True),
    ],
)
def test_values_are_cast_as_the_operator_wants(expression: str, expected: Any) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("missing", (False, "missingAttribute")),
        ("missing = missing", (False, "missingAttribute")),
        ("missing + 1", (0, "missingAttribute")),
        ("LENGTH(missing)", (0, "missingAttribute")),
        ("CONCAT('a', missing)", ("", "missingAttribute")),
        ("INT(missing)", (0, "missingAttribute")),
        ("INT(type)", (0, "cast")),
        ("missing IN (1)", (False, "missingAttribute")),
        ("1 IN (missing)", (False, "missingAttribute")),
        ("missing NOT LIKE 'a'", (False, "missingAttribute")),
        ("1 IN ('a', 1)", (False, "cast")),
        ("'a' = 1", (False, "cast")),
        ("'a' AND TRUE", (False, "cast")),
        ("NOT 'a'", (False, "cast")),
        ("LEFT('abc', -1) = 'abc'", (False, "functionEvaluation")),
        ("LENGTH(LEFT('abc', -1))", (0, "functionEvaluation")),
        ("SUBSTRING('abc', 1, -1)", ("", "functionEvaluation")),
        ("NOPE()", (False, "missingFunction")),
        ("LENGTH('a', 'b')", (False, "missingFunction")),
        ("(1 / 0) + 1", (0, "math")),
    ],
)
def test_an_error_gives_the_zero_value_of_the_operators_type(expression: str, expected: tuple[Any, str]) -> None:
    assert error(expression) == expected


@pytest.mark.parametrize(
    "expression",
    ["FALSE AND missing", "FALSE AND 1 / 0 = 1", "TRUE OR missing", "FALSE AND NOPE()", "FALSE AND TRUE AND missing"],
)
def test_and_and_or_do_not_evaluate_what_cannot_matter(expression: str) -> None:
    assert value(expression) is expression.startswith("TRUE")


def test_exists_is_always_true_for_required_attributes() -> None:
    assert value("EXISTS id AND EXISTS source AND EXISTS type AND EXISTS specversion") is True


@pytest.mark.parametrize(
    ("expression", "problem", "mark"),
    [
        ("type LIKE 123", "pattern of LIKE", 10),
        ("type LIKE type", "pattern of LIKE", 10),
        ("1 +", "expected a value, not the end", 3),
        ("", "expected a value", 0),
        ("(1", "expected '\\)'", 2),
        ("1)", "expected an operator", 1),
        ("1 2", "expected an operator", 2),
        ("'abc", "does not end", 0),
        ("a = 'it''s'", "expected an operator", 8),
        ("a.b", "unexpected character", 1),
        ("a == b", "expected a value", 3),
        ("EXISTS 'a'", "attribute name", 7),
        ("EXISTS", "attribute name", 6),
        ("my_attribute", "attribute name", 0),
        ("x IN ()", "must not be empty", 6),
        ("x IN 5", "expected '\\('", 5),
        ("ABC(", "expected a value", 4),
        ("ABC(1,)", "expected a value", 6),
        ("F1(1)", "letters and underscores", 0),
        ("_F(1)", "letters and underscores", 0),
        ("2147483648", "Integer range", 0),
        ("-2147483649", "Integer range", 0),
        ("+ 5", "plus sign", 0),
        ("+x", "plus sign", 0),
        ("a AND", "expected a value", 5),
        ("é = 1", "unexpected character", 0),
        ("a\x00", "unexpected character", 1),
        ("x NOT 5", "expected an operator", 2),
    ],
)
def test_a_parse_error_shows_the_place(expression: str, problem: str, mark: int) -> None:
    with pytest.raises(InvalidExpression, match=problem) as raised:
        sql.parse(expression)
    assert raised.value.position == mark
    assert raised.value.expression == expression
    last = str(raised.value).splitlines()[-1]
    assert last == " " * (mark + 2) + "^"


@pytest.mark.parametrize(
    "bomb", ["(" * 100_000, "NOT " * 10_000, "-" * 10_000, "A(" * 10_000, "1" * 70_000, "(" * 200 + "1" + ")" * 200]
)
def test_an_expression_beyond_reason_is_refused(bomb: str) -> None:
    with pytest.raises(InvalidExpression, match=r"nested|longer|depend"):
        sql.parse(bomb)


def test_a_long_row_of_operators_is_not_nested() -> None:
    assert value("+".join(["1"] * 10_000)) == 10_000
    assert value(" AND ".join(["TRUE"] * 5_000)) is True
    assert value(" XOR ".join(["TRUE"] * 5_001)) is True
    assert value("1" + " = 1" * 100) is True
    assert value("TRUE" + " IN (TRUE)" * 100) is True


def test_functions_of_the_user_are_called_by_signature() -> None:
    def double(number: int) -> int:
        return number * 2

    def joined(between: str, *texts: str) -> str:
        return between.join(texts)

    def either(one: str, other: str = "z") -> str:
        return one + other

    def raw(anything: object) -> bool:
        return anything is True

    functions = {"DOUBLE": double, "JOINED": joined, "EITHER": either, "RAW": raw}
    assert value("DOUBLE('21')", **functions) == 42
    assert value("JOINED('-', 1, TRUE, 'x')", **functions) == "1-true-x"
    assert value("EITHER('a') = 'az' AND EITHER('a', 'b') = 'ab'", **functions) is True
    assert value("RAW(flag) AND NOT RAW('true')", **functions) is True
    assert value("double(DOUBLE(1)) + double(1)", **functions) == 6
    assert error("DOUBLE()", **functions) == (False, "missingFunction")


def test_a_callable_that_cannot_be_hashed_is_a_function() -> None:
    class Twice:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, number: int) -> int:
            return number * 2

    assert value("TWICE(2)", TWICE=Twice()) == 4


def test_a_function_that_has_to_be_awaited_is_refused() -> None:
    async def slow(text: str) -> bool:
        return True

    with pytest.raises(InvalidFilter, match="coroutine"):
        sql.parse("SLOW('a')").evaluate(EVENT, {"SLOW": slow})


def test_functions_of_one_name_differ_in_their_number_of_arguments() -> None:
    def one(a: str) -> str:
        return "one"

    def two(a: str, b: str) -> str:
        return "two"

    def more(a: str, b: str, c: str, *rest: str) -> str:
        return "more"

    assert value("CONCAT(F('a'), F('a', 'b'), F('a', 'b', 'c', 'd'))", F=[one, two, more]) == "onetwomore"


@pytest.mark.parametrize(
    "bad", [[lambda *a: 1, lambda a, b, c: 1], [lambda a: 1, lambda b: 2], [lambda a, *b: 1, lambda a, b, *c: 1]]
)
def test_functions_that_cannot_be_told_apart_are_refused(bad: Any) -> None:
    with pytest.raises(InvalidFilter, match="defined twice"):
        value("TRUE", F=bad)


def test_a_built_in_function_is_not_replaced_but_may_be_overloaded() -> None:
    with pytest.raises(InvalidFilter, match="LENGTH is defined twice"):
        value("TRUE", LENGTH=lambda text: 1)
    assert value("LENGTH('abc') + LENGTH('abc', 4)", LENGTH=lambda text, more: more) == 7


def test_what_cannot_be_a_function_is_refused() -> None:
    def annotated(a: list[str]) -> str:
        return ""

    def keyword(*, a: str) -> str:
        return a

    for name, function in {"F": annotated, "G": keyword, "lower": str, "H1": str, "": str, "I": 5}.items():
        with pytest.raises(InvalidFilter, match="function"):
            value("TRUE", **{name: function})


def test_a_function_that_fails_is_an_error_with_the_zero_value_of_its_type() -> None:
    def broken(a: str) -> str:
        raise RuntimeError("boom")

    def wrong(a: str) -> int:
        return [a]  # type: ignore[return-value]

    def large(a: str) -> int:
        return 2**31

    assert error("F('x')", F=broken) == ("", "functionEvaluation")
    assert error("F('x')", F=wrong) == (0, "functionEvaluation")
    assert error("F('x')", F=large) == (0, "functionEvaluation")


def test_an_expression_reads_the_same_from_headers_and_from_json() -> None:
    text = Event(type="t", source="/", amount="17")
    number = Event(type="t", source="/", amount=17)
    matches = sql.parse("amount > 10 AND amount = 17 AND amount LIKE '1_'").predicate()
    assert matches(text)
    assert matches(number)


def test_an_expression_shows_its_text() -> None:
    assert repr(sql.parse("id = '1'")) == "Expression(\"id = '1'\")"


def naive(pattern: list[str], text: str) -> bool:
    """LIKE by definition: try every length for every `%`."""
    if not pattern:
        return not text
    first, rest = pattern[0], pattern[1:]
    if first == "%":
        return any(naive(rest, text[length:]) for length in range(len(text) + 1))
    return bool(text) and (first == "_" or first.removeprefix("\\") == text[0]) and naive(rest, text[1:])


@given(st.lists(st.sampled_from(["%", "_", "a", "b", "\\%", "\\_", "\n"]), max_size=7), st.text("ab%_\n", max_size=8))
def test_like_is_its_definition(pattern: list[str], text: str) -> None:
    assert matcher("".join(pattern))(text) is naive(pattern, text)


def test_like_takes_no_more_than_length_times_length() -> None:
    assert not matcher("%a" * 50 + "%b")("a" * 100_000)
    assert not matcher("%a_" * 50 + "%b")("a" * 10_000)


@given(st.text("01+-*/%()'\"abcTRUEANDORXINLKEG<>=!,_ \\", max_size=40))
def test_any_text_is_an_expression_or_an_invalid_expression(text: str) -> None:
    try:
        expression = sql.parse(text)
    except InvalidExpression:
        return
    result = expression.evaluate(EVENT)
    assert isinstance(result.value, (bool, int, str))
