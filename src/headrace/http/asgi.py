"""The ASGI application in front of all receivers of an app: one table from path to source.

Served by `headrace.http.server` or mounted in any ASGI application; a prefix under which it is mounted arrives as
``root_path`` and is taken off, whether the host left it in ``path`` (ASGI HTTP 2.3 and later) or not.
Nothing here logs a request's query string: it may carry an access token.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from headrace.errors import ConfigurationError
from headrace.http.answers import NO_CONTENT, Answer, problem
from headrace.http.source import HttpSource

if TYPE_CHECKING:
    from headrace.http.receiver import Receiver
    from headrace.http.request import Receive, Scope, Send

__all__ = ["Routed", "Routes", "reply"]

log = logging.getLogger("headrace.http")


class Routed(Protocol):
    """A source that takes requests: `HttpSource` and `DurableSource`."""

    path: str
    name: str
    receiver: Receiver

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def drain(self) -> None: ...


class Routes:
    """Routes requests to receivers by exact path (ASGI 3)."""

    def __init__(self) -> None:
        self._routes: dict[str, Routed] = {}
        self._retired: set[str] = set()
        #: For our own server: receivers that take a request without a task of its own, by the path as it is sent.
        self.direct: dict[bytes, HttpSource] = {}

    @property
    def paths(self) -> list[str]:
        """The paths that are served."""
        return list(self._routes)

    def add(self, source: Routed) -> None:
        """Serve this source. Raises `ConfigurationError` where its path is taken."""
        if source.path in self._routes:
            raise ConfigurationError(
                f"two receivers have the path {source.path!r}; an answer comes from one handler: change one path"
            )
        self._routes[source.path] = source
        for path in source.receiver.retired:
            if path in self._routes:
                raise ConfigurationError(
                    f"the path {path!r} is retired by {source.path!r}, and there is a receiver at it"
                )
            self._retired.add(path)
        if source.path in self._retired:
            raise ConfigurationError(f"there is a receiver at {source.path!r}, which another one says is retired")
        if isinstance(source, HttpSource) and not source.receiver.tokens:
            self.direct[quote(source.path, safe="/:@!$&'()*+,;=~").encode()] = source

    def drain(self) -> None:
        """Answer 503 from now on: the app is stopping."""
        for source in self._routes.values():
            source.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._elsewhere(scope, receive, send)
            return
        path: str = scope["path"]
        if scope.get("root_path"):
            path = self._below(scope["root_path"].rstrip("/"), path)
        source = self._routes.get(path)
        if source is None:
            if path in self._retired:
                # http-webhook.md, 2.2: the sender shall refrain from sending further notifications.
                await reply(send, problem(410, "this receiver is retired; send no more events here"))
            else:
                await reply(send, problem(404, "no receiver has this path"))
            return
        try:
            await source(scope, receive, send)
        except asyncio.CancelledError:
            raise
        except Exception:
            # The path is the declared one; headers, query and body may hold secrets.
            log.exception("a request to %s failed inside the receiver; the sender was told 500", source.path)
            await reply(send, problem(500, "the receiver failed; send the event again", retry_after=1))

    def _below(self, prefix: str, path: str) -> str:
        """The path under the prefix where the application is mounted; one that does not begin with it is that already."""
        if path == prefix:
            return "/"
        below = path[len(prefix) :] if path.startswith(f"{prefix}/") else path
        # A host of before ASGI HTTP 2.3 has taken the prefix off; a receiver's path may begin like it.
        return path if below not in self._routes and path in self._routes else below

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})


async def _lifespan(receive: Receive, send: Send) -> None:
    """The app is started by whoever mounts it; there is nothing to do here, and hosts insist on an answer."""
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": message["type"] + ".complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def reply(send: Send, answer: Answer = NO_CONTENT) -> None:
    """Send a whole answer."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})
