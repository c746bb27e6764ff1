"""Dead letters in a JetStream stream: one subject a letter, its last value only, changed by compare-and-set.

Stream `headrace_dlq_<app>`, subject `headrace.dlq.<app>.<handler>.<id>`, body: the letter as JSON. The header
`Headrace-State` repeats the state, so that counting reads no bodies. A letter that is larger than the server's max_payload is
stored without its body and says so (`Headrace-Left-Out`); where it came from a stream, the body is read there as long as
it is kept.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headrace.engine.dead_letters import OMITTED, DeadLetter, DeadLetterStore, Revision, Stored
from headrace.errors import PublishFailed, StoreUnavailable
from headrace.nats.api import NO_MESSAGE, STREAM_NOT_FOUND, WRONG_LAST_SEQUENCE, ApiError, nanoseconds
from headrace.nats.message import original_headers
from headrace.nats.publisher import Confirmed, Missing, Refused, header_block
from headrace.nats.reading import read_stream
from headrace.nats.requests import Silent
from headrace.nats.streams import own_stream
from headrace.nats.wire import header_pairs

if TYPE_CHECKING:
    from headrace.nats.api import Json
    from headrace.nats.broker import NatsBroker

__all__ = ["NatsDeadLetters"]

log = logging.getLogger("headrace.nats")

_ID: Final = re.compile(r"[0-9a-f]{24}")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DeadLetter).decode
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_STATE: Final = "Headrace-State"
_STORED: Final = "Headrace-Stored"
_LEFT_OUT: Final = "Headrace-Left-Out"


class NatsDeadLetters(DeadLetterStore):
    """The dead letters of one app."""

    def __init__(self, broker: NatsBroker, app: str) -> None:
        self._broker = broker
        self._app = app
        self._stream = f"headrace_dlq_{app}"
        self._ready = False
        self._opening = asyncio.Lock()

    def _config(self) -> Json:
        return {
            **self._broker.stream_defaults(limits=False),
            "name": self._stream,
            "description": f"Headrace: dead letters of app {self._app}",
            "subjects": [f"headrace.dlq.{self._app}.>"],
            "max_msgs_per_subject": 1,
            "duplicate_window": nanoseconds(120),
        }

    async def open(self) -> None:
        """Find or create the stream.

        Raises:
            ConnectionFailed: no broker. StoreUnavailable: JetStream does not answer.
        """
        await self._broker.open()
        async with self._opening:
            if not self._ready:
                try:
                    await own_stream(self._broker.api, self._config())
                except (Silent, ApiError) as error:
                    raise StoreUnavailable(
                        f"the dead letters of app {self._app!r} cannot be opened: {error}. Is JetStream enabled there?"
                    ) from error
                self._ready = True

    def _subject(self, handler: str, id: str) -> str:
        return f"headrace.dlq.{self._app}.{handler}.{id}"

    def _message(self, letter: DeadLetter, expected: Revision) -> tuple[bytes, bytes, bytes]:
        body = _encode(letter)
        pairs = [(_EXPECTED, str(expected)), (_STATE, letter.state), (_STORED, repr(letter.last_seen))]
        limit = self._broker.connection.max_payload - 1024
        if len(body) > limit:
            body, left_out = _shortened(letter, limit)
            pairs.append((_LEFT_OUT, left_out))
        return self._subject(letter.handler, letter.id).encode(), header_block(pairs), body

    async def put(self, letters: Sequence[DeadLetter]) -> Sequence[Exception | None]:
        """Store each that is not there yet; one of another app is refused, since that app would never find it here."""
        ours = [letter for letter in letters if letter.app == self._app]
        messages = [self._message(letter, 0) for letter in ours]
        answers = iter(await self._broker.publisher.publish(messages, f"dead letters of {self._app}") if ours else ())
        results: list[Exception | None] = []
        for letter in letters:
            if letter.app != self._app:
                why = (
                    f"dead letter {letter.id} is of app {letter.app!r}, and these are the dead letters of {self._app!r}"
                )
                results.append(PublishFailed(why, transient=False))
                continue
            answer = next(answers)
            if isinstance(answer, Confirmed) or (
                isinstance(answer, Refused) and answer.err_code in WRONG_LAST_SEQUENCE
            ):
                # Somebody stored it before, most likely we, before a crash: one letter.
                results.append(None)
                continue
            if isinstance(answer, Missing):
                await self._again()
            if not isinstance(answer, PublishFailed) or answer.transient:
                raise StoreUnavailable(f"dead letters of app {self._app!r} are not stored: {answer}") from answer
            results.append(answer)
        return results

    async def _again(self) -> None:
        """The stream was deleted under us: make it anew, so that the next attempt succeeds."""
        self._ready = False
        await self.open()

    async def get(self, id: str) -> Stored | None:
        """One letter by its id."""
        if not _ID.fullmatch(id):
            return None
        try:
            found = await self._broker.api.call(
                f"STREAM.MSG.GET.{self._stream}", {"last_by_subj": self._subject("*", id)}
            )
        except ApiError as error:
            if error.err_code in (NO_MESSAGE, STREAM_NOT_FOUND):
                return None
            raise StoreUnavailable(f"dead letter {id} cannot be read: {error}") from error
        except Silent as error:
            raise StoreUnavailable(f"dead letter {id} cannot be read: {error}") from error
        message = found["message"]
        headers = base64.b64decode(message.get("hdrs") or "")
        return await self._stored(headers, base64.b64decode(message["data"]), message["seq"])

    async def _stored(self, headers: bytes, body: bytes, sequence: int) -> Stored:
        letter = _decode(body)
        if _LEFT_OUT.encode() in headers:
            letter = await self._completed(letter)
        return Stored(letter, sequence)

    async def _completed(self, letter: DeadLetter) -> DeadLetter:
        """Bring back what was left out, from the stream where the event lay, if it is still there."""
        stream, sequence = letter.origin.get("stream"), letter.origin.get("sequence")
        if not isinstance(stream, str) or not isinstance(sequence, int):
            return letter
        try:
            found = await self._broker.api.call(f"STREAM.MSG.GET.{stream}", {"seq": sequence})
        except (Silent, ApiError) as error:
            log.debug("dead letter %s: its body is not to be had from %s: %s", letter.id, stream, error)
            return letter
        message = found["message"]
        if message["subject"] != letter.origin.get("subject", message["subject"]):
            return letter
        headers = original_headers(base64.b64decode(message.get("hdrs") or ""))
        return msgspec.structs.replace(letter, headers=headers, body=base64.b64decode(message.get("data") or ""))

    async def scan(self, app: str, *, handler: str | None = None) -> AsyncIterator[Stored]:
        """Every letter, in the order in which they were stored or last changed."""
        try:
            async for message in read_stream(self._broker, self._stream, f"headrace.dlq.{app}.{handler or '*'}.*"):
                yield await self._stored(message.headers, message.body, message.sequence)
        except (Silent, ApiError) as error:
            if isinstance(error, ApiError) and error.err_code == STREAM_NOT_FOUND:
                return
            raise StoreUnavailable(f"the dead letters of app {app!r} cannot be read: {error}") from error

    async def update(self, letter: DeadLetter, revision: Revision) -> bool:
        """Replace the letter if it still has that revision."""
        message = self._message(letter, revision)
        (answer,) = await self._broker.publisher.publish([message], f"dead letter {letter.id}")
        if isinstance(answer, Confirmed):
            return True
        if isinstance(answer, Refused) and answer.err_code in WRONG_LAST_SEQUENCE:
            return False
        if isinstance(answer, PublishFailed) and not answer.transient:
            raise answer
        raise StoreUnavailable(f"dead letter {letter.id} is not stored: {answer}") from answer

    async def counts(self, app: str) -> dict[str, tuple[int, float]]:
        """Letters in state `dead` by handler, and when the oldest of them was stored; bodies are not read."""
        found: dict[str, tuple[int, float]] = {}
        try:
            async for message in read_stream(self._broker, self._stream, f"headrace.dlq.{app}.*.*", headers_only=True):
                pairs = dict(header_pairs(message.headers))
                if pairs.get(_STATE) == "dead":
                    handler = message.subject.split(".")[-2]
                    count, oldest = found.get(handler, (0, float("inf")))
                    at = message.time
                    with contextlib.suppress(ValueError):
                        at = float(pairs.get(_STORED, ""))
                    found[handler] = (count + 1, min(oldest, at))
        except (Silent, ApiError) as error:
            if isinstance(error, ApiError) and error.err_code == STREAM_NOT_FOUND:
                return {}
            raise StoreUnavailable(f"the dead letters of app {app!r} cannot be counted: {error}") from error
        return found

    async def close(self) -> None:
        """The connection is the broker's."""


def _shortened(letter: DeadLetter, limit: int) -> tuple[bytes, str]:
    """A letter that fits: without its body, then without headers and histories. An edit is nowhere else: it stays."""
    less: dict[str, Any] = {"body": None}
    if letter.body is not None:
        less["origin"] = {**letter.origin, OMITTED: len(letter.body)}
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("body", {}),
        ("body, headers", {"headers": []}),
        ("body, headers, history", {"headers": [], "errors": [], "audit": letter.audit[-1:], "traceback": ""}),
    ]
    for what, changes in attempts:
        body = _encode(msgspec.structs.replace(letter, **less, **changes))
        if len(body) <= limit:
            return body, what
    kept = "its edit" if letter.edited is not None else "nothing of its event"
    raise PublishFailed(
        f"dead letter {letter.id} does not fit into {limit} bytes (the server's max_payload), even with {kept} alone",
        transient=False,
    )
