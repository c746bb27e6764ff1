"""The application object: handlers, settings, and the ways to run them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.naming import check_name
from headrace.router import Router

# What runs an app (the engine, asyncio, the compiler of handlers) is imported where it is first needed: a module that
# only declares one stays cheap to import.
if TYPE_CHECKING:
    import asyncio
    from datetime import datetime

    from headrace.compilation import Compiled
    from headrace.engine.sink import Published, SinkDeclaration
    from headrace.settings import Settings
    from headrace.testing.app import TestApp
    from headrace.worker import Worker

__all__ = ["App"]

F = TypeVar("F", bound=Callable[..., Any])
Lifespan = Callable[["App"], AbstractAsyncContextManager[None]]

#: `headrace.publishing.publish`, once something was published.
_publish: Any = None


class App(Router):
    """An event-driven application.

    Parameters:
        name: names everything that outlives a process: consumers, groups, ledger keys, dead letters.
        broker: URL of the broker behind channels; default ``HEADRACE_BROKER``.
        store: URL of the store; default ``HEADRACE_STORE``, else ``memory://``.
        lifespan: an async context manager factory that takes the app; entered before events flow, left after the drain.
        settings: any other setting by name (``concurrency=…``, ``drain=…``, ``nats_creds=…``); each also has a ``HEADRACE_*`` variable.

    Raises `ConfigurationError` for a name that cannot name a consumer.
    """

    def __init__(
        self,
        name: str,
        *,
        broker: str | None = None,
        store: str | None = None,
        lifespan: Lifespan | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        check_name(name, "App")
        self.name = name
        self.lifespan = lifespan
        self._functions: dict[str, list[Callable[..., Any]]] = {}
        self._arguments: dict[str, Any] = {"broker": broker, "store": store, **settings}
        self._worker: Worker | None = None
        self._publisher: Worker | None = None
        self._connecting: asyncio.Future[Worker] | None = None
        self._asgi: Any = None

    def settings(
        self, *, overrides: Mapping[str, Any] | None = None, defaults: Mapping[str, Any] | None = None
    ) -> Settings:
        """The settings as they are now: ``overrides`` (a command's flags), arguments, the environment, ``defaults`` (a
        command's own), then ours."""
        from headrace.settings import Settings

        arguments = {**self._arguments, **(overrides or {})}
        settings = Settings.resolve(arguments)
        unset = {name: value for name, value in (defaults or {}).items() if settings.values[name].origin == "default"}
        return Settings.resolve({**arguments, **unset}) if unset else settings

    def compile(self, settings: Settings | None = None) -> list[Compiled]:
        """Every handler, checked and compiled.

        Raises `ConfigurationError` or `InvalidFilter` that names the handler and the parameter.
        """
        from headrace.compilation import compile_all

        return compile_all(self.name, self.registrations, settings or self.settings(), functions=self._functions)

    def function(self, name: str) -> Callable[[F], F]:
        """Register a function that CESQL expressions in ``filters=`` of this app's handlers may call.

        Parameters:
            name: what expressions call it: upper-case letters and underscores. A name may be registered once for each
                number of arguments.

        Arguments are cast to the parameters' annotations (``bool``, ``int``, ``str``), ``*args`` takes any number; what the
        function raises is an error of the expression, so that the filter does not match (CESQL 1.0, section 3.5). What
        is wrong with it is told when the app starts, as an `InvalidFilter`.
        """

        def register(function: F) -> F:
            self._functions.setdefault(name, []).append(function)
            return function

        return register

    # Running

    @contextlib.asynccontextmanager
    async def running(
        self, *, settings: Settings | None = None, fatal: Callable[[int], None] | None = None
    ) -> AsyncIterator[Worker]:
        """Run the app inside another program: events flow within the block, and leaving it drains."""
        from headrace.worker import Worker

        settings = settings or self.settings()
        worker = Worker(self.name, self.compile(settings), settings, fatal=fatal)
        try:
            await worker.open()
        except BaseException:
            await worker.close()
            raise
        async with self.at_work(worker):
            yield worker

    @contextlib.asynccontextmanager
    async def at_work(self, worker: Worker) -> AsyncIterator[None]:
        """Let an opened worker run: lifespan in, events flow, drain, lifespan out."""
        async with self.lifespan(self) if self.lifespan is not None else contextlib.nullcontext():
            self._worker = worker
            if self._asgi is not None:
                self._asgi.attach(worker.receivers)
            worker.start()
            try:
                yield
            finally:
                try:
                    worker.complete = await worker.drain()
                finally:
                    self._worker = None

    async def close(self) -> None:
        """Close the connection that `publish` opened outside a running app."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()

    async def _publishing_worker(self) -> Worker:
        """The worker to publish through. Callers that wait for its connection go on in their order."""
        import asyncio

        if self._worker is not None:
            return self._worker
        if self._publisher is not None:
            return self._publisher
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> Worker:
        from headrace.worker import Worker

        publisher = Worker(self.name, (), self.settings(), role="publish")
        try:
            await publisher.open()
        except BaseException:
            await publisher.close()
            raise
        finally:
            self._connecting = None
        self._publisher = publisher
        return publisher

    # Publishing

    async def publish(
        self,
        channel_or_sink: str | SinkDeclaration,
        data_or_event: Any,
        *,
        type: str | None = None,
        subject: str | None = None,
        key: str | None = None,
        id: str | None = None,
        source: str | None = None,
        time: datetime | str | None = None,
        **extensions: Any,
    ) -> Published:
        """Publish one event; returns after the broker has confirmed it.

        Plain data becomes an event of type = the channel's name and source = ``/<app>/<handler>``. Inside a handler its id is
        derived from the event at hand and the number of this call, so that a repeated attempt publishes the same id;
        outside it is random. ``key`` is the ordering key, also written as ``partitionkey``. Inside a transactional handler
        the event goes to the outbox and leaves with the commit; then the answer's position is ``outbox``.

        Raises `PublishFailed` where the broker or sink does not confirm it: it is tried once here, and ``transient`` and
        ``retry_after`` (seconds, or ``None``) of the error say whether and when to call again; in a handler that lets the
        error through, its retry waits that long. What ``publishes=`` sends is repeated by itself.
        Raises `InvalidEvent` for data that cannot be encoded, `TypeError` for a ``key`` that is no text, `ValueError` for an
        empty one.
        """
        global _publish
        if _publish is None:
            from headrace.publishing import publish

            _publish = publish
        given: dict[str, Any] = extensions
        if subject is not None:
            given["subject"] = subject
        if id is not None:
            given["id"] = id
        if time is not None:
            given["time"] = time
        if source is not None:
            given["source"] = source
        if type is not None:
            given["type"] = type
        worker = self._worker
        if worker is None:
            worker = await self._publishing_worker()
        answer: Published | Exception = await _publish(
            worker, self.name, channel_or_sink, data_or_event, type=type, key=key, given=given
        )
        if isinstance(answer, Exception):
            raise answer
        return answer

    # HTTP and tests

    @property
    def asgi(self) -> Any:
        """The HTTP receivers as an ASGI application, to be mounted in any other. The app must be at work: the server's
        lifespan starts and drains it, or, where the host runs no lifespan for mounts, ``async with app.running()``."""
        if self._asgi is None:
            from headrace.mounting import Mounted

            self._asgi = Mounted(self)
        return self._asgi

    def testing(self) -> TestApp:
        """The app in memory, with virtual time: ``async with app.testing() as t``. No server is needed."""
        from headrace.testing.app import TestApp

        return TestApp(self)
