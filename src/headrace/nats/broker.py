"""NATS as the app's broker: one connection, channels as streams, dead letters and replays in streams of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headrace.engine.broker import Binding, Finding
from headrace.engine.sink import Publication
from headrace.errors import PublishFailed, StoreUnavailable
from headrace.nats import streams
from headrace.nats.api import Api, ApiError
from headrace.nats.client import Connection
from headrace.nats.consumers import EXPECTED_REPLICAS, Wanted
from headrace.nats.credentials import address
from headrace.nats.declarations import check_subject
from headrace.nats.publisher import Confirmed, Missing, Publisher, header_block
from headrace.nats.requests import Silent
from headrace.nats.sink import CoreSink, JetStreamSink, written
from headrace.nats.source import JetStreamSource

if TYPE_CHECKING:
    from headrace.engine.checkpoints import Checkpoints, Suspects
    from headrace.engine.dead_letters import DeadLetter, DeadLetterStore
    from headrace.engine.sink import Sink
    from headrace.engine.source import Declaration, Source
    from headrace.event import Event
    from headrace.nats.api import Json
    from headrace.nats.bucket import Bucket
    from headrace.nats.declarations import Stream, Subject

__all__ = ["NatsBroker", "create"]


def create(url: str, *, app: str, settings: Mapping[str, str], ready_within: float) -> NatsBroker:
    """The broker of an app; connects when it is opened.

    Raises:
        ConfigurationError: the URL or a setting is not what it should be.
    """
    return NatsBroker(url, app=app, settings=settings, ready_within=ready_within)


class NatsBroker:
    """``connection``, ``api`` and ``publisher`` are shared by all that is made from it."""

    name = "nats"

    def __init__(self, url: str, *, app: str, settings: Mapping[str, str], ready_within: float) -> None:
        self._address = address(url, settings)
        self._settings = self._address.settings
        self.url = self._address.shown
        self.app = app
        self.ready_within = ready_within
        self._defaults = streams.stream_defaults(self._settings)
        self.connection = Connection(self._address, f"headrace {app}")
        self.api = Api(self.connection, domain=self._settings.get("domain", ""))
        self.publisher = Publisher(self.connection)
        self._sinks: dict[str, Sink] = {}
        self._owners: dict[str, Any] = {}
        self._bucket: Bucket | None = None
        self._opening = asyncio.Lock()
        self._opened = False

    def stream_defaults(self, *, limits: bool = True) -> Json:
        """What streams of ours have; without ``limits``, nothing expires."""
        return self._defaults if limits else {**self._defaults, "max_age": 0, "max_bytes": -1}

    def setting(self, name: str) -> str:
        """A setting of ``HEADRACE_NATS_*`` or of the URL; empty where it is not given."""
        return self._settings.get(name, "")

    @property
    def replicas(self) -> int:
        """Replicas of the app that are expected at most."""
        text = self._settings.get("expected_replicas", "")
        return int(text) if text.isdigit() else EXPECTED_REPLICAS

    async def open(self) -> None:
        """Connect, once.

        Raises:
            ConnectionFailed: not reached within ``ready_within`` seconds, or refused (at once).
        """
        async with self._opening:
            if not self._opened:
                await self.connection.open(self.ready_within)
                self._opened = True

    @property
    def bucket(self) -> Bucket:
        """The app's small records."""
        if self._bucket is None:
            from headrace.nats.bucket import Bucket

            self._bucket = Bucket(self, self.app)
        return self._bucket

    # Channels and declarations

    def channel(self, channel: str, binding: Binding) -> Source:
        """The durable consumer `<app>__<handler>` on the stream that captures the channel's subject."""
        check_subject(channel, wildcards=False)

        async def locate() -> Json:
            return await streams.channel_stream(self.api, channel, self._settings)

        return self._source(f"nats:{channel}", binding, locate, self.wanted(channel, binding))

    def wanted(self, source: str | Stream, binding: Binding) -> Wanted:
        """The consumer that a handler needs on a channel or an explicit stream."""
        if isinstance(source, str):
            return Wanted.of(binding, source, replicas=self.replicas)
        return Wanted.of(
            binding,
            source.subject,
            replicas=self.replicas,
            durable=source.durable,
            ack_wait=source.ack_wait,
            create=source.create,
        )

    def stream_source(self, declared: Stream, binding: Binding) -> Source:
        """The source of an explicit `Stream`."""

        async def locate() -> Json:
            return await streams.declared_stream(self.api, declared, self._settings)

        return self._source(declared.name, binding, locate, self.wanted(declared, binding))

    def _source(self, name: str, binding: Binding, locate: Any, wanted: Wanted) -> Source:
        if not binding.keyed:
            return JetStreamSource(self, binding, name=name, locate=locate, wanted=wanted)
        from headrace.nats.owner import OwnedSource

        source = OwnedSource(self, binding, name=name, locate=locate, wanted=wanted)
        self._owners[binding.durable] = source
        return source

    def subject_source(self, declared: Subject, binding: Binding) -> Source:
        """The source of a core `Subject`."""
        from headrace.nats.subject import SubjectSource

        return SubjectSource(self, binding, declared)

    def sink(self, channel: str) -> Sink:
        """The sink of a channel."""
        check_subject(channel, wildcards=False)

        async def locate() -> Json:
            return await streams.channel_stream(self.api, channel, self._settings)

        return self._sinks.setdefault(
            channel, JetStreamSink(self, name=f"nats:{channel}", subject=channel, locate=locate)
        )

    def stream_sink(self, declared: Stream) -> Sink:
        """The sink of an explicit `Stream`."""
        assert declared.subject is not None

        async def locate() -> Json:
            return await streams.declared_stream(self.api, declared, self._settings)

        return JetStreamSink(self, name=declared.name, subject=declared.subject, locate=locate)

    def subject_sink(self, declared: Subject) -> Sink:
        """The sink of a core `Subject`."""
        return CoreSink(self, name=declared.name, subject=declared.subject)

    # Dead letters and replays

    def dead_letters(self, app: str) -> DeadLetterStore | None:
        """The stream `headrace_dlq_<app>`."""
        from headrace.nats.dead_letters import NatsDeadLetters

        return NatsDeadLetters(self, app)

    def _replay_subject(self, app: str, handler: str) -> str:
        return f"headrace.replay.{app}.{handler}"

    async def _replay_stream(self, app: str) -> Json:
        return await streams.own_stream(
            self.api,
            {
                **self.stream_defaults(limits=False),
                "name": f"headrace_replay_{app}",
                "description": f"Headrace: replays of dead letters of app {app}",
                "subjects": [f"headrace.replay.{app}.*"],
                "retention": "workqueue",
            },
        )

    def replays(self, binding: Binding) -> Source:
        """The handler's subject of the stream `headrace_replay_<app>`, a work queue."""

        async def locate() -> Json:
            return await self._replay_stream(binding.app)

        wanted = replace(
            Wanted.of(binding, self._replay_subject(binding.app, binding.handler), replicas=self.replicas),
            keyed=False,
            start="earliest",
            explicit=True,
        )
        name = f"nats:replay:{binding.handler}"
        if not binding.keyed:
            return JetStreamSource(self, binding, name=name, locate=locate, wanted=wanted)
        from headrace.nats.replays import OwnedReplays

        owner = self._owners.get(binding.durable)
        return OwnedReplays(self, binding, name=name, locate=locate, wanted=wanted, owner=owner)

    async def replay(self, letter: DeadLetter) -> None:
        """Publish a letter's event to its handler's replay channel.

        Raises:
            InvalidEvent: it holds no event. PublishFailed: the broker refuses it. StoreUnavailable: it does not answer.
        """
        event = letter.replayed()
        subject = self._replay_subject(letter.app, letter.handler)
        headers, body = written(Publication(event), None)
        block = (
            headers[:-2] + header_block([("Nats-Msg-Id", f"{letter.id}.{letter.replay + 1}")])[len(b"NATS/1.0\r\n") :]
        )
        for _ in range(2):
            (answer,) = await self.publisher.publish([(subject.encode(), block, body)], f"the replay of {letter.id}")
            if isinstance(answer, Confirmed):
                return
            if not isinstance(answer, Missing):
                break
            try:
                await self._replay_stream(letter.app)
            except (Silent, ApiError) as error:
                raise StoreUnavailable(f"the replay of {letter.id} is not stored: {error}") from error
        if isinstance(answer, PublishFailed) and not answer.transient:
            raise answer
        raise StoreUnavailable(f"the replay of {letter.id} is not stored: {answer}")

    # Small records

    def checkpoints(self, app: str) -> Checkpoints | None:
        """Checkpoints in the key-value bucket `headrace_<app>`."""
        from headrace.stores.nats import NatsCheckpoints

        return NatsCheckpoints(self, app)

    def suspects(self, app: str) -> Suspects | None:
        """Starts of suspects in the key-value bucket `headrace_<app>`."""
        from headrace.stores.nats import NatsSuspects

        return NatsSuspects(self, app)

    async def inspect(self, bindings: list[tuple[str | Declaration, Binding]]) -> list[Finding]:
        """What is amiss at the server, in words; nothing is created."""
        from headrace.nats.inspection import inspect

        return await inspect(self, bindings)

    def tail(self, channels: Sequence[str]) -> AsyncIterator[tuple[str, Event]]:
        """Channel and event of what comes from now on, of all channels where none is named; see `headrace.nats.tail`."""
        from headrace.nats.tail import follow

        for channel in channels:
            check_subject(channel, wildcards=True)
        return follow(self, channels)

    async def close(self) -> None:
        """Let what was written reach the server, and disconnect."""
        if self._opened:
            await self.connection.shut()
