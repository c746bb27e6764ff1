"""Filters of the CloudEvents Subscriptions API, compiled once to a function of an event.

A filter is an object with one member, its dialect: `exact`, `prefix` and `suffix` map attribute names to text and
want all of them to match; `all` and `any` hold filters, `not` holds one; `sql` (or `cesql`) holds a CESQL expression.
An array of filters wants all of them, and an empty array takes every event. Values are compared by canonical string,
with regard to case, and an attribute that the event has not never matches. What cannot be compiled is refused here,
when the app starts.

Source: CloudEvents Subscriptions API 1.0.0-wip, section "Filters".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from headrace.cloudevents import sql
from headrace.cloudevents.types import canonical, check_name
from headrace.errors import InvalidEvent, InvalidFilter

if TYPE_CHECKING:
    from headrace.event import Event

Filter: TypeAlias = Mapping[str, Any]

Matches: TypeAlias = "Callable[[Event], bool]"

_DEPTH_LIMIT: Final = 60


def compile(filters: Sequence[Filter], *, functions: Mapping[str, Any] | None = None) -> Callable[[Event], bool]:
    """Compile an array of filters.

    Args:
        filters: the filters, all of which an event must match.
        functions: functions that CESQL expressions may call beyond the built-in ones; see `sql.Expression.evaluate`.

    Returns:
        a function that tells whether an event matches.

    Raises:
        InvalidFilter: an unknown dialect, an expression that does not parse or calls an unknown function, an empty or
            wrong member; the message names the place.
    """
    return _every(_each(filters, "filters", functions or {}, 0))


def _each(filters: object, place: str, functions: Mapping[str, Any], depth: int) -> list[Matches]:
    if not isinstance(filters, Sequence) or isinstance(filters, (str, bytes)):
        raise InvalidFilter(f"{place} must be an array of filters, not {type(filters).__name__}")
    return [_one(item, f"{place}[{index}]", functions, depth + 1) for index, item in enumerate(filters)]


def _one(item: object, place: str, functions: Mapping[str, Any], depth: int) -> Matches:
    if depth > _DEPTH_LIMIT:
        raise InvalidFilter(f"{place} is nested more than {_DEPTH_LIMIT} deep")
    if not isinstance(item, Mapping):
        raise InvalidFilter(f"{place} must be an object, not {type(item).__name__}")
    if len(item) != 1:
        raise InvalidFilter(f"{place} must have one member, its dialect, and has {len(item)}")
    dialect, operand = next(iter(item.items()))
    place = f"{place}.{dialect}"
    if dialect in _TERMS:
        return _every([_TERMS[dialect](name, text) for name, text in _pairs(operand, place)])
    if dialect in ("all", "any"):
        nested = _each(operand, place, functions, depth)
        if not nested:
            raise InvalidFilter(f"{place} must hold at least one filter")
        return _every(nested) if dialect == "all" else _some(nested)
    if dialect == "not":
        negated = _one(operand, place, functions, depth + 1)
        return lambda event: not negated(event)
    if dialect in ("sql", "cesql"):
        if not isinstance(operand, str):
            raise InvalidFilter(f"{place} must be an expression, not {type(operand).__name__}")
        try:
            return sql.parse(operand).predicate(functions)
        except InvalidFilter as error:
            raise InvalidFilter(f"{place}: {error}") from error
    raise InvalidFilter(f"{place}: dialect {dialect!r} is not known: use exact, prefix, suffix, all, any, not or sql")


def _pairs(operand: object, place: str) -> list[tuple[str, str]]:
    if not isinstance(operand, Mapping) or not operand:
        raise InvalidFilter(f"{place} must map at least one attribute name to text")
    pairs: list[tuple[str, str]] = []
    for name, text in operand.items():
        try:
            check_name(name)
        except (InvalidEvent, TypeError) as error:
            raise InvalidFilter(f"{place}: {error}") from None
        if not isinstance(text, str) or not text:
            raise InvalidFilter(f"{place}.{name} must be text that is not empty")
        pairs.append((name, text))
    return pairs


# A term asks forgiveness: nearly every attribute that a filter names is there, and text.


def _exact(name: str, text: str) -> Matches:
    def exact(event: Event) -> bool:
        try:
            value = event._attributes[name]
        except KeyError:
            return False
        return value == text or (value.__class__ is not str and canonical(value) == text)

    return exact


def _prefix(name: str, text: str) -> Matches:
    def prefix(event: Event) -> bool:
        try:
            return event._attributes[name].startswith(text)  # type: ignore[no-any-return]
        except KeyError:
            return False
        except (AttributeError, TypeError):
            return canonical(event._attributes[name]).startswith(text)

    return prefix


def _suffix(name: str, text: str) -> Matches:
    def suffix(event: Event) -> bool:
        try:
            return event._attributes[name].endswith(text)  # type: ignore[no-any-return]
        except KeyError:
            return False
        except (AttributeError, TypeError):
            return canonical(event._attributes[name]).endswith(text)

    return suffix


_TERMS: Final[dict[str, Callable[[str, str], Matches]]] = {"exact": _exact, "prefix": _prefix, "suffix": _suffix}


def _every(each: list[Matches]) -> Matches:
    """All of them; the few that filters usually have are written out, a loop costs as much as a term."""
    if len(each) == 1:
        return each[0]
    if len(each) == 2:
        one, two = each
        return lambda event: one(event) and two(event)
    if len(each) == 3:
        one, two, three = each
        return lambda event: one(event) and two(event) and three(event)

    def every(event: Event) -> bool:
        for matches in each:  # noqa: SIM110 - all() of a generator costs more than the terms
            if not matches(event):
                return False
        return True

    return every


def _some(each: list[Matches]) -> Matches:
    def some(event: Event) -> bool:
        for matches in each:  # noqa: SIM110 - any() of a generator costs more than the terms
            if matches(event):
                return True
        return False

    return some
