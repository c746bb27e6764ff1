"""Retry policy: how often, how long apart, and what happens at the end.

Values here are immutable and checked when they are made, so that a wrong policy is an error at import of the
user's file and never a surprise at the eighth failure.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Backoff", "Jitter", "Retry", "equal", "exponential", "full", "none"]

Jitter = Callable[[float], float]
Order = Literal["hold", "release"]
OnExhausted = Literal["dead_letter", "drop", "stop"]


def equal(delay: float) -> float:
    """Half of the delay, and a random share of the other half: spread without ever being hasty."""
    return delay / 2 + random.random() * delay / 2


def full(delay: float) -> float:
    """Anything between nothing and the whole delay."""
    return random.random() * delay


def none(delay: float) -> float:
    """The delay as it is."""
    return delay


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delays that grow by a constant factor up to a maximum.

    Parameters: ``initial``, ``maximum`` in seconds; ``factor`` ≥ 1; ``jitter`` maps a delay to the one that is used.
    Raises ``ValueError`` for negative seconds or a factor below 1.
    """

    initial: float = 0.5
    factor: float = 3.0
    maximum: float = 60.0
    jitter: Jitter = equal

    def __post_init__(self) -> None:
        if self.initial < 0 or self.maximum < 0:
            raise ValueError(f"backoff: initial and maximum are seconds, 0 or more; got {self.initial}, {self.maximum}")
        if self.factor < 1:
            raise ValueError(f"backoff: factor is at least 1, or delays would shrink; got {self.factor}")

    def delay(self, failures: int) -> float:
        """Seconds to wait after the given number of failures (1 for the first)."""
        exponent = min(failures - 1, 1000)
        try:
            grown = self.initial * self.factor**exponent
        except OverflowError:
            grown = self.maximum
        return self.jitter(min(grown, self.maximum))


def exponential(*, initial: float = 0.5, factor: float = 3.0, maximum: float = 60.0, jitter: Jitter = equal) -> Backoff:
    """Exponential backoff; with the defaults 0.5, 1.5, 4.5, 13.5, 40.5, 60, 60 s before jitter: some three minutes."""
    return Backoff(initial=initial, factor=factor, maximum=maximum, jitter=jitter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """What happens when a handler fails.

    Parameters:
        attempts: starts of the handler in all; the failure of the last one exhausts the event. At least 1.
        backoff: delays between attempts.
        budget: seconds from the first attempt's start after which no retry begins; ``None`` for no such limit.
        on: exception types that are retried; any other is dead-lettered at once.
        order: ``"hold"`` parks the lane of the key until the retry is due, ``"release"`` lets others pass. Default:
            hold for keyed handlers, release for unkeyed ones.
        on_exhausted: ``"dead_letter"``, ``"drop"`` (counted), or ``"stop"`` (drain the app, exit code 1).

    Raises ``ValueError`` or ``TypeError`` for values that cannot mean anything.
    """

    attempts: int = 8
    backoff: Backoff = Backoff()
    budget: float | None = None
    on: tuple[type[BaseException], ...] = (Exception,)
    order: Order | None = None
    on_exhausted: OnExhausted = "dead_letter"

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise ValueError(f"Retry(attempts=…) is a whole number, at least 1; got {self.attempts!r}")
        if not callable(getattr(self.backoff, "delay", None)):
            raise TypeError(f"Retry(backoff=…) is a Backoff such as headrace.exponential(…); got {self.backoff!r}")
        if self.budget is not None and self.budget < 0:
            raise ValueError(f"Retry(budget=…) is seconds, 0 or more; got {self.budget!r}")
        kinds: object = self.on if isinstance(self.on, tuple) else (self.on,)
        object.__setattr__(self, "on", kinds)
        for kind in self.on:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"Retry(on=…) takes exception types; got {kind!r}")
        if self.order not in (None, "hold", "release"):
            raise ValueError(f'Retry(order=…) is "hold" or "release"; got {self.order!r}')
        if self.on_exhausted not in ("dead_letter", "drop", "stop"):
            raise ValueError(f'Retry(on_exhausted=…) is "dead_letter", "drop" or "stop"; got {self.on_exhausted!r}')
