"""One process's run of an app: opens store, broker, sources and sinks, starts the engine, and drains it.

`App` compiles handlers; this module connects them to the real parts. Nothing is acknowledged that was not opened here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from headrace.engine.breaker import Limits
from headrace.engine.broker import Binding, Broker
from headrace.engine.checkpoints import Checkpoints, Suspects
from headrace.engine.clock import Clock
from headrace.engine.dead_letters import DeadLetterStore
from headrace.engine.ledger import Owner
from headrace.engine.relay import Relay
from headrace.engine.runner import Runner
from headrace.engine.runtime import Runtime
from headrace.engine.sink import Sink
from headrace.engine.source import Source
from headrace.engine.stored_replays import ReplayStore, StoredReplays
from headrace.engine.transactional import Transactional, destination_of
from headrace.errors import ConfigurationError, ConnectionFailed, HeadraceError, StoreUnavailable
from headrace.observe.tracing import discover
from headrace.settings import Settings, hide_secrets
from headrace.stores import Store, open_store

if TYPE_CHECKING:
    from headrace.compilation import Compiled

__all__ = ["BROKERS", "DEFAULT_LANES", "Worker", "create_broker"]

log = logging.getLogger("headrace")

#: Seconds that the end of a drain may take to publish what lies in the outbox; a successor finds the rest.
RELAY_GRACE = 2.0

#: URL scheme → module with ``create(url, *, app, settings, ready_within)``, and the extra that brings it.
BROKERS = {
    "nats": ("headrace.nats.broker", "nats"),
    "tls": ("headrace.nats.broker", "nats"),
    "kafka": ("headrace.kafka.broker", "kafka"),
    "memory": ("headrace.memory.broker", ""),
}

#: URL scheme → what names the lane of a channel's event where the user names no key; elsewhere nothing does.
DEFAULT_LANES = {"kafka": "record key"}


def create_broker(url: str, *, app: str, settings: Settings) -> Broker:
    """The broker of a URL, not yet connected. Raises `ConfigurationError` for an unknown scheme or a missing extra."""
    scheme = urlsplit(url).scheme
    if scheme not in BROKERS or "://" not in url:
        raise ConfigurationError(
            f"broker {hide_secrets(url)!r}: unknown URL scheme {scheme!r}; use nats://, kafka:// or memory://"
        )
    module, extra = BROKERS[scheme]
    try:
        create = import_module(module).create
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("headrace"):
            raise
        raise ConfigurationError(
            f"broker {hide_secrets(url)!r} needs the module {error.name!r}; install headrace[{extra}]"
        ) from error
    broker: Broker = create(url, app=app, settings=settings.transport, ready_within=settings["ready_within"])
    return broker


class Worker:
    """Opened by `open`, at work after `start`, ended by `drain` (and always by `close`).

    ``role``: ``run`` handles events, ``publish`` only publishes, ``letters`` looks after dead letters beside a running worker.
    ``substitute`` gives the source of a handler instead of the declared one (the app in memory).
    """

    def __init__(
        self,
        app: str,
        compiled: Sequence[Compiled],
        settings: Settings,
        *,
        broker: Broker | None = None,
        store: Store | None = None,
        clock: Clock | None = None,
        fatal: Callable[[int], None] | None = None,
        substitute: Callable[[Compiled, Binding], Source] | None = None,
        role: Literal["run", "publish", "letters"] = "run",
    ) -> None:
        self.app = app
        self.compiled = compiled
        self.settings = settings
        self.broker = broker
        self.store = store
        self.owner = Owner(app, secrets.token_hex(8), os.getpid(), socket.gethostname())
        self.runtime: Runtime | None = None
        self.dead_letters: DeadLetterStore | None = None
        self.receivers: list[Any] = []
        self.relay: Relay | None = None
        self.complete = True
        self._clock = clock
        self._fatal = fatal
        self._substitute = substitute
        self._role = role
        #: Those that are open, by what was asked for.
        self.sinks: dict[Any, Sink] = {}
        self._opening: dict[Any, asyncio.Future[Sink]] = {}
        self._own_letters: Store | None = None
        self._file: Store | None = None
        self._checkpoints: Checkpoints | None = None
        self._records: Suspects | None = None

    async def open(self) -> None:
        """Connect to everything and declare what is needed. Raises a `HeadraceError` with the exit code that fits."""
        settings = self.settings
        if self.store is None:
            # A publisher keeps nothing; whoever looks at dead letters does so beside the worker that owns the store.
            url = "memory://" if self._role == "publish" else settings["store"]
            self.store = open_store(url, app=self.app, beside=self._role == "letters")
        await self._open_store(self.store)
        needs = [compiled for compiled in self.compiled if compiled.needs_broker]
        if self.broker is None and settings["broker"]:
            self.broker = create_broker(settings["broker"], app=self.app, settings=settings)
        if self.broker is None and needs and self._substitute is None:
            first = needs[0]
            raise ConfigurationError(
                f"handler {first.handler.name!r} uses the channel {first.channel!r}, and no broker is configured: "
                "set HEADRACE_BROKER (nats://…, kafka://… or memory://) or App(broker=…)"
            )
        if self.broker is not None:
            await self.broker.open()
        if self._role == "publish":
            self.dead_letters = self.store.dead_letters
        else:
            self.dead_letters = await self._open_dead_letters()
        assert self.dead_letters is not None
        self._checkpoints = await self._open_checkpoints()
        self.runtime = Runtime(
            self.app,
            ledger=self.store.ledger,
            dead_letters=self.dead_letters,
            sink=self.sinks.__getitem__,
            concurrency=settings["concurrency"],
            grace=settings["drain"],
            clock=self._clock,
            suspects=await self._begin_suspects(),
            breaker=Limits(settings["breaker_failures"], settings["breaker_events"]),
            tracer=discover(),
            fatal=self._fatal,
        )
        for compiled in self.compiled:
            if compiled.handler.publishes is not None:
                await self.sink(compiled.handler.publishes)
        names = tuple(compiled.handler.name for compiled in self.compiled)
        self._check_transactions()
        opened: list[tuple[Compiled, list[Source]]] = []
        for compiled in self.compiled:
            binding = self.binding(compiled, names)
            sources = [self.source(compiled, binding)]
            if self.broker is not None and (compiled.buries or self._substitute is not None):
                sources.append(self.broker.replays(binding))
            elif self.broker is None and compiled.buries and self._substitute is None:
                sources.extend(self._stored_replays(compiled.handler.name))
            opened.append((compiled, sources))
        for compiled, sources in opened:
            for source in sources:
                await source.open()
            runner = self.runtime.add(compiled.handler, sources)
            if compiled.handler.signature.transaction is not None:
                self._take_part(runner)
        if self._role == "run" and self.store.outbox is not None:
            self.relay = Relay(self.store.outbox, self.runtime.publish, self._outbox_sink)

    def _stored_replays(self, handler: str) -> list[Source]:
        """Without a broker replays come through the file that keeps the letters, which is this worker's alone."""
        letters = self.dead_letters
        assert letters is not None
        if not isinstance(letters, ReplayStore):
            return []
        return [StoredReplays(letters, letters, app=self.app, handler=handler, by=f"worker {self.owner.id}")]

    # Transactions and the outbox

    def _check_transactions(self) -> None:
        """Raises `ConfigurationError` for a transactional handler that this store cannot serve."""
        assert self.store is not None
        for compiled in self.compiled:
            handler = compiled.handler
            annotation = handler.signature.transaction
            if annotation is None:
                continue
            if self.store.transactions is None:
                problem = "it has no transactions; set HEADRACE_STORE to sqlite:///… or postgresql://…"
            elif not handler.idempotent:
                problem = 'the mark commits with the writes; leave out idempotent=False and ack="first"'
            else:
                problem = self.store.transactions.check(annotation)
            if problem:
                raise ConfigurationError(
                    f"handler {handler.name!r} takes a transaction of the store {self.store.url}: {problem}"
                )

    def _take_part(self, runner: Runner) -> None:
        assert self.store is not None
        assert self.store.transactions is not None
        assert self.store.outbox is not None
        call = runner.handler.signature.call
        runner.take_part(Transactional(runner, call, self.store.transactions, self.store.outbox, self.outbox_name))

    def outbox_name(self, destination: Any) -> str:
        """How the outbox names a destination. Raises `ConfigurationError` for one that no restart could find."""
        sinks = {one.handler.name: one.handler.publishes for one in self.compiled if one.handler.publishes is not None}
        return destination_of(destination, sinks)

    async def _outbox_sink(self, name: str) -> Any:
        """The destination of a row, its sink open."""
        kind, _, rest = name.partition(":")
        destination: Any = rest
        if kind == "handler":
            destination = next((one.handler.publishes for one in self.compiled if one.handler.name == rest), None)
            if destination is None:
                raise ConfigurationError(f"no handler {rest!r} publishes any more")
        await self.sink(destination)
        return destination

    async def _open_store(self, store: Store) -> None:
        try:
            async with asyncio.timeout(self.settings["ready_within"]):
                await store.open(self.owner)
        except (TimeoutError, StoreUnavailable) as error:
            raise ConnectionFailed(
                f"store {store.url} did not answer within {self.settings['ready_within']:g} s: {error}"
            ) from error

    async def _open_file(self) -> Store:
        """The SQLite file beside the app, for what neither store nor broker keeps."""
        if self._file is None:
            try:
                os.makedirs(".headrace", exist_ok=True)
            except OSError as error:
                raise ConfigurationError(
                    f"what must outlive the process is kept in {os.getcwd() + '/.headrace'}, which cannot be made "
                    f"({error.strerror}); run in a folder that can be written to, or name a SQL store: HEADRACE_STORE"
                ) from error
            self._file = open_store(f"sqlite:///.headrace/{self.app}.db", app=self.app, beside=self._role == "letters")
            await self._open_store(self._file)
        return self._file

    async def _open_dead_letters(self) -> DeadLetterStore:
        """The SQL store that was named, the broker, the store, or the file beside the app: there is always one."""
        url = self.settings["dead_letters"]
        store = self.store
        assert store is not None
        letters: DeadLetterStore | None = None
        if url:
            self._own_letters = open_store(url, app=self.app, beside=self._role == "letters")
            await self._open_store(self._own_letters)
            letters = self._own_letters.dead_letters
            if letters is None:
                raise ConfigurationError(f"dead letters cannot be kept in {hide_secrets(url)}: name a SQL store")
        else:
            if self.broker is not None:
                letters = self.broker.dead_letters(self.app)
            if letters is None and (store.durable or self.settings.values["store"].origin != "default"):
                letters = store.dead_letters
            if letters is None:
                letters = (await self._open_file()).dead_letters
        assert letters is not None
        await letters.open()
        return letters

    async def _open_checkpoints(self) -> Checkpoints | None:
        """The durable store's, the broker's, or the file's beside the app; in memory only where that was spelled and there
        is no broker."""
        store, broker = self.store, self.broker
        assert store is not None
        if store.durable and store.checkpoints is not None:
            return store.checkpoints
        found = broker.checkpoints(self.app) if broker is not None else None
        if found is not None:
            return found
        spelled = self.settings.values["store"].origin != "default" and broker is None
        wanted = any(getattr(compiled.declaration, "checkpointed", False) for compiled in self.compiled)
        opens = wanted and self._role == "run" and self._substitute is None
        if not opens or (spelled and store.checkpoints is not None):
            return store.checkpoints
        return (await self._open_file()).checkpoints

    async def _begin_suspects(self) -> Suspects | None:
        """Where starts are recorded, if an earlier process of this place ended uncleanly; ``None`` else.

        The store's records, else the broker's, else those of the file beside the app where one is open.
        """
        assert self.store is not None
        if self._role != "run":
            return None
        records = self.store.suspects if self.store.durable else None
        if records is None and self.broker is not None:
            records = self.broker.suspects(self.app)
        if records is None and self._file is not None:
            records = self._file.suspects
        if records is None or not await records.begin(self.app, self.owner.id):
            self._records = records
            return None
        self._records = records
        return records

    def binding(self, compiled: Compiled, names: tuple[str, ...]) -> Binding:
        """What the source of a handler learns about it."""
        handler = compiled.handler
        return Binding(
            app=self.app,
            handler=handler.name,
            keyed=handler.keyed,
            concurrency=handler.concurrency,
            prefetch=handler.prefetch,
            parked=handler.parked,
            timeout=handler.timeout,
            start=compiled.start,
            wants_bytes=handler.signature.wants_bytes,
            handlers=names,
            broker=self.broker,
            checkpoints=self._checkpoints,
            ready_within=self.settings["ready_within"],
            settings=dict(self.settings.transport),
        )

    def source(self, compiled: Compiled, binding: Binding) -> Source:
        """The source of a handler, not yet open."""
        if self._substitute is not None:
            return self._substitute(compiled, binding)
        if compiled.channel:
            assert self.broker is not None
            return self.broker.channel(compiled.channel, binding)
        source: Source = compiled.declaration.bind(binding)
        if compiled.receives:
            self.receivers.append(source)
        return source

    async def sink(self, destination: Any) -> Sink:
        """The open sink of a channel name or a sink declaration. Callers that wait for the same one go on in their order."""
        sink = self.sinks.get(destination)
        if sink is not None:
            return sink
        opening = self._opening.get(destination)
        if opening is None:
            opening = self._opening[destination] = asyncio.ensure_future(self._open_sink(destination))
        return await asyncio.shield(opening)

    async def _open_sink(self, destination: Any) -> Sink:
        try:
            if not isinstance(destination, str):
                sink: Sink = destination.sink(self.broker)
            elif self.broker is not None:
                sink = self.broker.sink(destination)
            else:
                raise ConfigurationError(
                    f"publishing to the channel {destination!r} needs a broker: set HEADRACE_BROKER or App(broker=…)"
                )
            await sink.open()
            self.sinks[destination] = sink
            return sink
        finally:
            del self._opening[destination]

    def start(self) -> None:
        """Let events flow."""
        assert self.runtime is not None
        self.runtime.start()
        if self.relay is not None:
            self.relay.start(self.runtime.defect)

    async def drain(self) -> bool:
        """Finish what is in flight and close; whether all of it was finished in time."""
        complete = True if self.runtime is None else await self.runtime.drain()
        failure = None if self.runtime is None else self.runtime.failure
        if self._records is not None and failure is None:
            # After a failure (a handler's own exit is one) what was delivered is suspect, as after a kill.
            try:
                await self._records.end(self.app, self.owner.id)
            except HeadraceError as error:
                log.warning("the clean end could not be recorded: %s", error)
        if self.relay is not None:
            await self.relay.stop(RELAY_GRACE)
        await self.close()
        return complete

    async def close(self) -> None:
        """Let go of every connection; safe after a failed `open`."""
        if self.relay is not None:
            await self.relay.stop(0.0)
        closing: list[Any] = list(self.sinks.values())
        self.sinks.clear()
        parts = (self.dead_letters, self.broker, self._own_letters, self._file, self.store)
        closing += [part for part in parts if part is not None]
        self.dead_letters = None
        for part in closing:
            try:
                await part.close()
            except Exception as error:  # noqa: BLE001 - the others must be closed too
                log.warning("closing %s: %s: %s", type(part).__name__, type(error).__name__, error)
