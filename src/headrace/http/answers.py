"""What a sender is told: the one table from outcomes to HTTP answers.

The status decides whether a sender tries again, so it follows the promise: 2xx only for what is settled, 4xx for what
no repetition mends, 503 and 429 with Retry-After for what will pass. Errors carry a problem document (RFC 9457). The
text of an exception that the user did not write for the sender (anything but `Reject`) stays inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from headrace.cloudevents import http
from headrace.errors import Drop, InvalidEvent, Reject, RetryAfter, words

if TYPE_CHECKING:
    from headrace.engine.delivery import Outcome
    from headrace.event import Event

__all__ = ["NO_CONTENT", "Answer", "Refused", "batch_answer", "message", "outcome_answer", "problem"]

Headers = Sequence[tuple[bytes, bytes]]

TITLES: Final = {
    200: "OK",
    202: "Accepted",
    204: "No Content",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    410: "Gone",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
#: How many failed events of a batch are listed in the problem document.
LISTED: Final = 20


class Answer(NamedTuple):
    """One HTTP response: status, header pairs, body."""

    status: int
    headers: Headers
    body: bytes = b""


class Refused(Exception):
    """A request that is answered without reaching a handler.

    Args:
        status: the HTTP status.
        detail: one sentence for the sender: what is wrong and what to send instead.
        headers: further response headers.
        retry_after: seconds until it may pass.
    """

    def __init__(self, status: int, detail: str, *, headers: Headers = (), retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.retry_after = retry_after

    def answer(self) -> Answer:
        return problem(self.status, self.detail, headers=self.headers, retry_after=self.retry_after)


NO_CONTENT: Final = Answer(204, ())
ACCEPTED: Final = Answer(202, ((b"content-length", b"0"),))


def problem(
    status: int, detail: str, *, headers: Headers = (), retry_after: float | None = None, **members: Any
) -> Answer:
    """An error answer with a problem document (RFC 9457); ``members`` are its extension members."""
    document = {"type": "about:blank", "title": TITLES[status], "status": status, "detail": detail, **members}
    body = msgspec.json.encode(document)
    pairs = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    if retry_after is not None:
        pairs.append((b"retry-after", str(max(0, math.ceil(retry_after))).encode()))
    return Answer(status, pairs, body)


def outcome_answer(outcome: Outcome) -> Answer:
    """The answer for one event that is settled (transports.md, HTTP, sync)."""
    if outcome.kind == "ack" or outcome.kind == "drop" or isinstance(outcome.error, Drop):
        return NO_CONTENT if outcome.result is None else event_answer(outcome.result)
    status, detail = judge(outcome)
    return problem(status, detail, retry_after=retry_delay(outcome) if status == 503 else None)


def judge(outcome: Outcome) -> tuple[int, str]:
    """Status and reason of an outcome that is no success."""
    error = outcome.error
    if isinstance(error, Reject):
        return 422, words(error)
    if isinstance(error, InvalidEvent):
        return 400, words(error)
    if error is None and outcome.kind == "dead":
        return 422, "this event was given up before; sending it again changes nothing"
    if outcome.kind == "hand_back":
        return 503, "the receiver is stopping; send the event again"
    return 503, "the event was not handled this time; send it again"


def retry_delay(outcome: Outcome) -> float:
    """Seconds for Retry-After: what the handler or its policy asked for, else one."""
    if isinstance(outcome.error, RetryAfter):
        return outcome.error.seconds
    return outcome.delay or 1.0


def event_answer(event: Event) -> Answer:
    """A returned value: 200 with one binary-mode event, so that a receiver is a Knative subscriber as it stands."""
    return _with_body(*message(event))


def message(event: Event) -> tuple[Sequence[tuple[str, str]], bytes]:
    """An event as headers and body, in binary mode where it has a payload and a type of it.

    http-webhook.md wants both of every request (2.1) and of an answer with status 200 (2.2); an event that has none is
    written in structured mode, rather than with an invented type.
    """
    headers, body = http.binary(event)
    if not body or not any(name == "content-type" for name, _ in headers):
        return http.structured(event)
    return headers, body


def batch_answer(outcomes: Sequence[Outcome]) -> Answer:
    """One answer for a batch. What a repetition mends wins over what it does not: finished events of the batch are
    known by the ledger and not handled twice. Returned values answer a batch as a batch."""
    bad: list[dict[str, Any]] = []
    results: list[Event] = []
    status, delay = 204, 0.0
    for index, outcome in enumerate(outcomes):
        if outcome.kind == "ack" or outcome.kind == "drop" or isinstance(outcome.error, Drop):
            if outcome.result is not None:
                results.append(outcome.result)
            continue
        code, detail = judge(outcome)
        status = max(status, code)
        if code == 503:
            delay = max(delay, retry_delay(outcome))
        bad.append({"index": index, "status": code, "detail": detail})
    if bad:
        summary = f"{len(bad)} of {len(outcomes)} events were not handled"
        return problem(status, summary, retry_after=delay if status == 503 else None, events=bad[:LISTED])
    if not results:
        return NO_CONTENT
    headers, body = http.batch(results)
    return _with_body(headers, body)


def _with_body(headers: Sequence[tuple[Any, Any]], body: bytes | None) -> Answer:
    body = body or b""
    pairs = [(_bytes(name).lower(), _bytes(value)) for name, value in headers]
    pairs.append((b"content-length", str(len(body)).encode()))
    return Answer(200, pairs, body)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
