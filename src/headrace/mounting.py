"""``app.asgi``: the app's HTTP receivers, and its life, as one ASGI application."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from headrace.http.answers import problem
from headrace.http.asgi import Routes, reply

if TYPE_CHECKING:
    from headrace.app import App

__all__ = ["Mounted"]

Message = MutableMapping[str, Any]
log = logging.getLogger("headrace.http")

NOT_STARTED = (
    "the app behind this path was never started: no ASGI lifespan has reached it, and hosts run none for what they mount; "
    "enter app.running() in the host's own lifespan"
)


class Mounted:
    """Answers HTTP for the receivers; ASGI lifespan events start and drain the app. Before, every request is a 503."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._routes = Routes()
        self._stack = AsyncExitStack()
        self._attached = self._told = False
        if app._worker is not None:
            self.attach(app._worker.receivers)

    def attach(self, receivers: Sequence[Any]) -> None:
        """Route to these sources from now on."""
        self._attached = True
        self._routes = Routes()
        for source in receivers:
            self._routes.add(source)

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "http" and not self._attached:
            if not self._told:
                self._told = True
                log.error("%s (app %r)", NOT_STARTED, self._app.name)
            await reply(send, problem(503, NOT_STARTED, retry_after=1))
            return
        if scope["type"] != "lifespan":
            await self._routes(scope, receive, send)
            return
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._stack.enter_async_context(self._app.running())
                except Exception as error:  # noqa: BLE001 - the server is told, and ends
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._stack.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return
