"""Every exception that Headrace raises, in one hierarchy.

Callers of any room catch `HeadraceError` and nothing else; each class below says when it is raised and, where the
command line ends because of it, with which exit code. The three control-flow exceptions at the end are not failures:
a handler raises them to say how its delivery is to be settled.
"""

from __future__ import annotations

from typing import ClassVar


def words(error: BaseException) -> str:
    """What an exception says, as text that every store, wire and terminal can take.

    A lone surrogate (a file name that is no UTF-8 brings them) becomes its escape; an exception whose ``__str__`` fails is
    described by that failure, for reporting a failure must never be one.
    """
    try:
        text = str(error)
    except Exception as failure:  # noqa: BLE001 - the user's __str__, which may do anything
        return f"(it cannot say what happened: its __str__ raised {type(failure).__name__})"
    return encodable(text)


def encodable(text: str) -> str:
    """The text as it is where it can be encoded, else with each lone surrogate as its escape (``\\udce9``)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


class HeadraceError(Exception):
    """The root of everything Headrace raises."""

    exit_code: ClassVar[int] = 1


class InvalidEvent(HeadraceError, ValueError):
    """Bytes, headers or values that are no CloudEvent, or data that is not what the handler asked for."""


class UnsupportedFormat(InvalidEvent):
    """A structured event in an event format that is not read, such as Avro; over HTTP the answer is 415."""


class InvalidFilter(HeadraceError, ValueError):
    """A filter or CESQL expression that cannot be compiled; raised when the app starts, never per event. Exit code 2."""

    exit_code = 2


class InvalidExpression(InvalidFilter):
    """A CESQL expression that does not parse; the message shows the expression with the place marked.

    Args:
        problem: what is wrong, in words.
        expression: the whole text.
        position: where in the text, counted in characters from 0.
    """

    kind: ClassVar[str] = "parse"

    def __init__(self, problem: str, expression: str, position: int) -> None:
        self.problem = problem
        self.expression = expression
        self.position = position
        # A long expression is shown around the place only; a line break would move the mark.
        start = max(0, position - 60)
        excerpt = expression[start : position + 60].replace("\n", " ").replace("\r", " ").replace("\t", " ")
        super().__init__(f"{problem} at character {position + 1}:\n  {excerpt}\n  {' ' * (position - start)}^")

    def __reduce__(self) -> tuple[type[InvalidExpression], tuple[str, str, int]]:
        return InvalidExpression, (self.problem, self.expression, self.position)


class ConfigurationError(HeadraceError):
    """The app, its environment or its arguments contradict each other. The command line ends with code 2."""

    exit_code = 2


class ConnectionFailed(HeadraceError):
    """A broker, store or API server could not be reached or refused the credentials. Exit code 4."""

    exit_code = 4


class RefusedError(HeadraceError):
    """Headrace declined to do something that would lose or repeat work. The command line ends with code 5."""

    exit_code = 5


class Reject(HeadraceError):
    """Raised by a handler: this event can never be handled, dead-letter it now.

    Args:
        reason: why, in words; stored with the dead letter.
    """

    def __init__(self, reason: str = "rejected by the handler") -> None:
        super().__init__(reason)
        self.reason = reason


class RetryAfter(HeadraceError):
    """Raised by a handler: try this event again, not before a delay.

    Args:
        seconds: the delay in seconds, zero or more.
        reason: why, in words; stored with the attempt.
    """

    def __init__(self, seconds: float, reason: str = "the handler asked for a retry") -> None:
        if not seconds >= 0:
            raise ValueError(f"RetryAfter needs a delay of zero or more seconds, not {seconds!r}")
        super().__init__(f"{reason} (after {seconds} s)")
        self.seconds = seconds
        self.reason = reason


class Drop(HeadraceError):
    """Raised by a handler: forget this event; it is acknowledged and counted, nothing is stored.

    Args:
        reason: why, in words; a label of the log line.
    """

    def __init__(self, reason: str = "dropped by the handler") -> None:
        super().__init__(reason)
        self.reason = reason


class WorkerDied(HeadraceError):
    """The process ended, again and again, while a handler ran with an event; the reason of its dead letter."""


class StoreUnavailable(HeadraceError):
    """A store did not answer, is full, or lost its connection. The engine waits; nothing runs unprotected."""


class PublishFailed(HeadraceError):
    """An event was not confirmed by its sink.

    Args:
        message: what happened, where, and what to do.
        transient: an outage that waiting may mend; the engine repeats the publish. Otherwise (too large, refused, no
            such destination) the delivery that it came from is dead-lettered.
        retry_after: seconds that the destination asked to wait, if it did.
    """

    def __init__(self, message: str, *, transient: bool, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.transient = transient
        self.retry_after = retry_after


class SinkUnreachable(PublishFailed):
    """Nobody answers where a sink publishes to: an outage. Exit code 4.

    Args:
        message: what happened, where, and what to do.
    """

    exit_code = 4

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=True)
