"""Which letters a ``dlq`` command means: its options, and the letters that they choose."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from headrace.engine.dead_letters import DeadLetter, DeadLetterStore, Stored

__all__ = ["STATES", "Selection", "app_option", "json_option", "reason_option", "selecting"]

STATES = ("dead", "replaying", "replayed", "dropped")
_WHOLE_ID = re.compile(r"[0-9a-f]{24}")

app_option = click.option(
    "--app", required=True, envvar="HEADRACE_APP", help="module:attribute, a file, or the app's name."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
reason_option = click.option("--reason", default="", help="Why; kept in the letter's audit.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The options that choose letters. ``states`` is what is meant where no state is given."""

    ids: tuple[str, ...] = ()
    handler: str | None = None
    where: str | None = None
    error: str | None = None
    state: str | None = None
    limit: int | None = None

    @property
    def narrow(self) -> bool:
        """Whether it asks for certain letters, so that finding none is worth an exit code."""
        return bool(self.ids or self.handler or self.where or self.error or self.state)

    async def find(self, store: DeadLetterStore, app: str, *, states: tuple[str, ...]) -> AsyncIterator[Stored]:
        """The letters, in the store's order: oldest first, those changed later at the end.

        Raises `InvalidFilter` for an expression that does not compile.
        """
        found = 0
        async for stored in self.matching(store, app, states=states):
            yield stored
            found += 1
            if found == self.limit:
                return

    async def matching(self, store: DeadLetterStore, app: str, *, states: tuple[str, ...]) -> AsyncIterator[Stored]:
        """As `find`, without the limit."""
        matches = self._matcher((self.state,) if self.state else states)
        async for stored in self._candidates(store, app):
            if matches(stored.letter):
                yield stored

    async def _candidates(self, store: DeadLetterStore, app: str) -> AsyncIterator[Stored]:
        if self.ids and all(_WHOLE_ID.fullmatch(id) for id in self.ids):
            for id in self.ids:
                stored = await store.get(id)
                if stored is not None and stored.letter.app == app and self.handler in (None, stored.letter.handler):
                    yield stored
        else:
            async for stored in store.scan(app, handler=self.handler):
                yield stored

    def _matcher(self, states: tuple[str, ...]) -> Callable[[DeadLetter], bool]:
        condition: Callable[[Any], bool] | None = None
        if self.where is not None:
            from headrace.cloudevents import filters

            condition = filters.compile([{"sql": self.where}])
        ids, error = self.ids, self.error

        def matches(letter: DeadLetter) -> bool:
            if letter.state not in states or (ids and not letter.id.startswith(ids)):
                return False
            if error is not None and error not in (letter.exception, letter.exception.rpartition(".")[2]):
                return False
            if condition is None:
                return True
            event = letter.event
            return event is not None and condition(event)

        return matches


def selecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose letters, gathered in ``selection``."""

    @functools.wraps(function)
    def gathered(
        *,
        ids: tuple[str, ...],
        handler: str | None,
        where: str | None,
        error: str | None,
        state: str | None,
        limit: int | None,
        **more: Any,
    ) -> Any:
        chosen = Selection(ids=ids, handler=handler, where=where, error=error, state=state, limit=limit)
        return function(selection=chosen, **more)

    wrapped: Callable[..., Any] = gathered
    for option in (
        click.argument("ids", nargs=-1),
        click.option("--limit", type=click.IntRange(min=1), help="At most so many, the oldest first."),
        click.option("--state", type=click.Choice(STATES), help="Only letters in this state."),
        click.option("--error", metavar="NAME", help="Only letters of this exception type."),
        click.option("--where", metavar="CESQL", help="Only letters whose event the expression holds for."),
        click.option("--handler", help="Only letters of this handler."),
        app_option,
    ):
        wrapped = option(wrapped)
    return wrapped
