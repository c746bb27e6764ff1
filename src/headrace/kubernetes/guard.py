"""What keeps automatic repair from doing harm: a pause per object, and a budget per cluster.

Both are counted from the audit events as well as from memory, so that a process that dies of what it repairs, or a
replica that takes over, does not begin with a fresh budget.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from headrace.errors import ConfigurationError, RefusedError

__all__ = ["Action", "Budget", "Guard", "RepairRefused"]


@dataclass(frozen=True, slots=True)
class Budget:
    """At most so many ``actions`` in any ``per`` seconds, over all objects of a cluster."""

    actions: int
    per: float

    def __post_init__(self) -> None:
        if self.actions < 0 or self.per <= 0:
            raise ConfigurationError(
                f"Budget: actions is 0 or more, per is seconds above 0; got {self.actions}, {self.per}"
            )


class RepairRefused(RefusedError):
    """An action was not carried out: its object was repaired a moment ago, or the budget is spent.

    Attributes:
        retry_after: seconds until it would be allowed.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Action:
    """One action that was begun: a name unlike any other's, the object's key, and when (seconds since the epoch)."""

    name: str
    key: str
    at: float


class Guard:
    """Remembers actions for as long as they count.

    Args:
        cooldown: seconds between two actions on one object.
        budget: over all objects; ``None``: no limit.
    """

    def __init__(self, *, cooldown: float, budget: Budget | None) -> None:
        self.cooldown = cooldown
        self.budget = budget
        self._actions: dict[str, Action] = {}

    @property
    def horizon(self) -> float:
        """Seconds for which an action counts."""
        return max(self.cooldown, 0.0 if self.budget is None else self.budget.per)

    def remember(self, actions: Iterable[Action]) -> None:
        """Count these too, each once."""
        for action in actions:
            self._actions[action.name] = action

    def admit(self, key: str, now: float) -> None:
        """Raises `RepairRefused` where an action on ``key`` is not allowed at ``now``."""
        oldest = now - self.horizon
        self._actions = {name: action for name, action in self._actions.items() if action.at > oldest}
        last = max((action.at for action in self._actions.values() if action.key == key), default=None)
        if last is not None and now - last < self.cooldown:
            left = self.cooldown - (now - last)
            raise RepairRefused(
                f"{key} was acted on {now - last:.0f} s ago; its cooldown lasts another {left:.0f} s", retry_after=left
            )
        budget = self.budget
        if budget is None:
            return
        recent = sorted(action.at for action in self._actions.values() if action.at > now - budget.per)
        if len(recent) >= budget.actions:
            left = budget.per if not budget.actions else recent[len(recent) - budget.actions] + budget.per - now
            raise RepairRefused(
                f"the budget of {budget.actions} actions in {budget.per:g} s is spent; the next one in {left:.0f} s",
                retry_after=left,
            )
