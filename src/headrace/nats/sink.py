"""Sinks: JetStream publishes with confirmation, core NATS without.

The deduplication id is a hash of (subject, source, id, replay number): source and id alone would swallow an event that is
forwarded to another subject of the same stream.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from headrace.cloudevents.headervalue import percent_encoded
from headrace.cloudevents.nats import binary
from headrace.engine.sink import Publication, Published
from headrace.errors import ConfigurationError, ConnectionFailed, HeadraceError, InvalidEvent, PublishFailed
from headrace.nats.api import ApiError
from headrace.nats.publisher import Confirmed, Missing, header_block
from headrace.nats.requests import Silent
from headrace.nats.wire import publication

if TYPE_CHECKING:
    from headrace.nats.api import Json
    from headrace.nats.broker import NatsBroker

__all__ = ["CoreSink", "JetStreamSink", "message_id", "written"]

_PUBLISHED: Final = Published()


def message_id(subject: str, source: str, id: str, replay: int) -> str:
    """The `Nats-Msg-Id` of an event on a subject."""
    parts = "\0".join((subject, source, id, str(replay)))
    return hashlib.blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def written(publication_: Publication, subject: str | None) -> tuple[bytes, bytes]:
    """An event in binary mode as (header block, body); with ``subject``, carrying its deduplication id."""
    event = publication_.event
    pairs, body = binary(event)
    if publication_.key is not None:
        pairs = [pair for pair in pairs if pair[0] != "ce-partitionkey"]
        pairs.append(("ce-partitionkey", percent_encoded(publication_.key)))
    pairs.extend(publication_.headers)
    if subject is not None:
        pairs.append(("Nats-Msg-Id", message_id(subject, event.source, event.id, publication_.replay)))
    return header_block(pairs), body


class JetStreamSink:
    """Publishes to one subject of a stream. ``locate`` finds or creates the stream."""

    def __init__(self, broker: NatsBroker, *, name: str, subject: str, locate: Callable[[], Awaitable[Json]]) -> None:
        self.name = name
        self._broker = broker
        self._subject = subject
        self._locate = locate
        self._open = False
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Find or create the stream.

        Raises:
            ConfigurationError: no stream takes the subject. ConnectionFailed: JetStream does not answer.
        """
        async with self._opening:
            if self._open:
                return
            await self._broker.open()
            end = asyncio.get_running_loop().time() + self._broker.ready_within
            while True:
                try:
                    found = await self._locate()
                    break
                except (Silent, ApiError) as error:
                    if (isinstance(error, ApiError) and not error.transient) or asyncio.get_running_loop().time() > end:
                        raise ConnectionFailed(
                            f"{self.name}: JetStream at {self._broker.url} is not ready: {error}. Is JetStream enabled there?"
                        ) from error
                    await asyncio.sleep(0.2)
            if found["config"].get("no_ack"):
                raise ConfigurationError(
                    f"{self.name}: the stream {found['config']['name']!r} confirms no publishes (no_ack), so nothing could ever "
                    "be known to be stored; set no_ack to false, or publish to another stream"
                )
            self._open = True

    async def publish(self, publications: Sequence[Publication]) -> Sequence[Published | Exception]:
        """Publish in order, pipelined; a result for each."""
        subject = self._subject.encode()
        messages: list[tuple[bytes, bytes, bytes]] = []
        unusable: dict[int, Exception] = {}
        for position, item in enumerate(publications):
            try:
                messages.append((subject, *written(item, self._subject)))
            except InvalidEvent as error:
                unusable[position] = PublishFailed(
                    f"{self.name}: the event cannot be written: {error}", transient=False
                )
        publisher = self._broker.publisher
        answers = await publisher.publish(messages, self.name)
        missing = [position for position, answer in enumerate(answers) if isinstance(answer, Missing)]
        if missing:
            refused = await self._again()
            if refused is None:
                # The stream is there (again): those that nobody took go once more, still in order.
                second = await publisher.publish([messages[position] for position in missing], self.name)
            else:
                second = [refused] * len(missing)
            for position, answer in zip(missing, second, strict=True):
                answers[position] = answer
        left = iter(answers)
        return [unusable[n] if n in unusable else _result(next(left)) for n in range(len(publications))]

    async def _again(self) -> PublishFailed | None:
        """No stream answered: put it back where we may, or say why that no repetition mends."""
        try:
            await self._locate()
        except (Silent, ApiError) as error:
            return PublishFailed(f"{self.name}: {error}", transient=True)
        except ConfigurationError as error:
            return PublishFailed(f"{self.name}: {error}", transient=False)
        return None

    async def close(self) -> None:
        """Nothing is held between publishes."""


def _result(answer: Confirmed | Exception) -> Published | Exception:
    if isinstance(answer, Exception):
        return answer
    return Published(duplicate=answer.duplicate, position=f"{answer.stream}:{answer.seq}")


class CoreSink:
    """Publishes to a core NATS subject: the server has it when `publish` returns; whether anybody listened is not known."""

    def __init__(self, broker: NatsBroker, *, name: str, subject: str) -> None:
        self.name = name
        self._broker = broker
        self._subject = subject

    async def open(self) -> None:
        """Connect."""
        await self._broker.open()

    async def publish(self, publications: Sequence[Publication]) -> Sequence[Published | Exception]:
        """Publish in order, then one round trip."""
        connection = self._broker.connection
        subject = self._subject.encode()
        results: list[Published | Exception] = []
        out: list[bytes] = []
        for item in publications:
            try:
                headers, body = written(item, None)
            except InvalidEvent as error:
                results.append(PublishFailed(f"{self.name}: the event cannot be written: {error}", transient=False))
                continue
            if len(headers) + len(body) > connection.max_payload:
                results.append(
                    PublishFailed(
                        f"{self.name}: larger than the server's max_payload of {connection.max_payload} bytes",
                        transient=False,
                    )
                )
                continue
            out.append(publication(subject, b"", headers, body))
            results.append(_PUBLISHED)
        try:
            if out:
                if not connection.written(b"".join(out)):
                    raise Silent(connection.trouble or "not connected")
                await connection.round_trip()
        except HeadraceError as error:
            failed = PublishFailed(f"{self.name}: NATS did not take it: {error}", transient=True)
            results = [failed if result is _PUBLISHED else result for result in results]
        return results

    async def close(self) -> None:
        """Nothing is held between publishes."""
