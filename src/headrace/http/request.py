"""One HTTP exchange of a receiver: from the request's first header to the answer that was sent.

Both modes share it; they differ only in what they do with the events (`Ingress.answer`). Order of the checks: method,
content type, content length, body, content coding, depth, decode, batch size; the first that fails names the status,
and nothing after it is paid for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol

from headrace.cloudevents.http import decode
from headrace.errors import InvalidEvent, UnsupportedFormat
from headrace.http.answers import Answer, Refused
from headrace.http.body import Gone, check_depth, decompress, read, too_large
from headrace.http.handshake import handshake

if TYPE_CHECKING:
    from headrace.event import Event
    from headrace.http.grants import Grants
    from headrace.http.limits import Limits
    from headrace.http.measures import RequestMeasures
    from headrace.http.receiver import Receiver

__all__ = ["DISCONNECT", "Headers", "Ingress", "Lifeline", "Receive", "Scope", "Send", "content", "exchange", "head"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

#: The ASGI extension by which our own server tells that the client went away, without a task for each request. Its
#: value takes a callback, or ``None`` to forget it.
DISCONNECT: Final = "headrace.disconnect"

_ACCEPT: Final = ((b"accept", b"application/cloudevents+json, application/cloudevents-batch+json"),)


class Ingress(Protocol):
    """What takes the events of a request and knows its answer."""

    receiver: Receiver
    requests: RequestMeasures
    grants: Grants

    async def answer(self, lifeline: Lifeline, headers: Headers, body: bytes, events: Sequence[Event]) -> Answer:
        """Raises `Refused`, or `Gone` where the client went away."""
        ...


class Lifeline:
    """Tells whoever works on a request that its client went away.

    Under our own server a callback of the connection; under another one a task that waits for ``http.disconnect``.
    """

    __slots__ = ("_connection", "_receive", "_task")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        extensions = scope.get("extensions")
        self._connection = extensions.get(DISCONNECT) if extensions else None
        self._receive = receive
        self._task: asyncio.Task[None] | None = None

    def watch(self, gone: Callable[[], None]) -> None:
        """Call ``gone`` once, when the client goes away before `release`."""
        if self._connection is not None:
            self._connection(gone)
        else:
            self._task = asyncio.create_task(self._listen(gone))

    async def _listen(self, gone: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        gone()

    def release(self) -> None:
        if self._connection is not None:
            self._connection(None)
        elif self._task is not None:
            self._task.cancel()
            self._task = None


async def exchange(ingress: Ingress, scope: Scope, receive: Receive, send: Send) -> None:
    """Read, judge, hand over, answer. ASGI 3, scope type ``http``."""
    since = perf_counter()
    receiver = ingress.receiver
    headers: Headers = scope["headers"]
    try:
        if scope["method"] in receiver.methods:
            if receiver.tokens:
                receiver.tokens.check(headers, scope.get("query_string", b""))
            fields = head(headers, receiver.limits)
            body = await read(receive, receiver.limits.body)
            body, events = content(headers, fields, body, receiver.limits)
            answer = await ingress.answer(Lifeline(scope, receive), headers, body, events)
            if answer.status < 300 and b"access_token=" in scope.get("query_string", b""):
                # RFC 6750, 2.3: what was asked for with a token in the URL is for no shared cache.
                answer = answer._replace(headers=(*answer.headers, (b"cache-control", b"private")))
        elif scope["method"] == "OPTIONS":
            answer = handshake(receiver, ingress.grants, headers)
        else:
            allow = ", ".join((*receiver.methods, "OPTIONS"))
            raise Refused(405, f"use {receiver.methods[0]} to send an event", headers=((b"allow", allow.encode()),))
    except Refused as refused:
        if scope["method"] in receiver.methods:
            ingress.requests.refused(refused.status)
        answer = refused.answer()
    except Gone:
        return
    ingress.requests.add(answer.status, perf_counter() - since)
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})


def head(headers: Headers, limits: Limits) -> dict[bytes, bytes]:
    """The headers as a table, judged before any of the body is read. Raises `Refused`: 400, 413, 415."""
    fields = dict(headers)
    if b"ce-specversion" not in fields and not _structured(fields):
        raise _no_event(headers)
    length = fields.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > limits.body:
        raise too_large(limits.body)
    return fields


def content(headers: Headers, fields: dict[bytes, bytes], body: bytes, limits: Limits) -> tuple[bytes, Sequence[Event]]:
    """The body, decompressed, and the events that it holds. Raises `Refused`: 400, 413, 415."""
    if b"content-encoding" in fields:
        body = decompress(body, b",".join(value for name, value in headers if name == b"content-encoding"), limits)
    if b"json" in fields.get(b"content-type", b"json").lower():
        check_depth(body, limits.depth)
    try:
        events = decode(headers, body)
    except UnsupportedFormat as error:
        raise Refused(415, str(error), headers=_ACCEPT) from None
    except InvalidEvent as error:
        raise Refused(400, str(error)) from None
    if len(events) > limits.batch:
        raise Refused(413, f"a batch of {len(events)} events is larger than {limits.batch}; send it in parts")
    return body, events


def _structured(fields: dict[bytes, bytes]) -> bool:
    return fields.get(b"content-type", b"").lower().startswith(b"application/cloudevents")


def _no_event(headers: Headers) -> Refused:
    if any(name.startswith(b"ce-") for name, _ in headers):
        return Refused(400, "the header ce-specversion is missing: a binary-mode CloudEvent needs it")
    return Refused(
        415,
        "this is no CloudEvent: send ce- headers with the data as the body, or application/cloudevents+json",
        headers=_ACCEPT,
    )
