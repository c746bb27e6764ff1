"""``app.asgi``: the app's HTTP receivers, and its life, as one ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from headrace.http.asgi import Routes

if TYPE_CHECKING:
    from headrace.app import App

__all__ = ["Mounted"]

Message = MutableMapping[str, Any]


class Mounted:
    """Answers HTTP for the receivers; ASGI lifespan events start and drain the app."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._routes = Routes()
        self._stack = AsyncExitStack()
        if app._worker is not None:
            self.attach(app._worker.receivers)

    def attach(self, receivers: Sequence[Any]) -> None:
        """Route to these sources from now on."""
        self._routes = Routes()
        for source in receivers:
            self._routes.add(source)

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
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
