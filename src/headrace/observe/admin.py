"""The admin port's ASGI application: ``/metrics /livez /readyz /startupz``, for orchestrators and scrapers.

It answers from the first moment of a process, before there is a broker, so that probes can tell starting from dead. It
takes no input but the path and the Accept header, and controls nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headrace.observe.health import Verdict, liveness, readiness, startup

if TYPE_CHECKING:
    from headrace.observe.metrics import Metrics
    from headrace.observe.state import Runtime

__all__ = ["Admin"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger("headrace.observe")

PATHS: Final = ("/metrics", "/livez", "/readyz", "/startupz")
#: Seconds between two measurements of the loop, and how many of them the gauge remembers.
HEARTBEAT: Final = 1.0
REMEMBERED: Final = 15
#: Seconds for which the counts of dead letters are good enough, and for which a scrape waits for new ones.
COUNTS_FOR: Final = 15.0
COUNTS_WITHIN: Final = 1.0


class Admin:
    """One app's admin endpoints. Made in the running loop; `attach` when the app has opened its parts."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._runtime: Runtime | None = None
        self._metrics: Metrics | None = None
        self._loop = asyncio.get_running_loop()
        self._lags: deque[float] = deque((0.0,), maxlen=REMEMBERED)
        self._counted = float("-inf")
        self._counting: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(HEARTBEAT, self._beat, self._loop.time() + HEARTBEAT)

    def attach(self, runtime: Runtime) -> None:
        """Show this app from now on."""
        self._runtime = runtime
        if self._metrics is not None:
            self._metrics.runtime = runtime

    def close(self) -> None:
        """Stop measuring the loop."""
        self._timer.cancel()
        if self._counting is not None:
            self._counting.cancel()

    @property
    def loop_lag(self) -> float:
        """The latest that a timer ran lately, in seconds."""
        return max(self._lags)

    def _beat(self, due: float) -> None:
        now = self._loop.time()
        self._lags.append(max(0.0, now - due))
        self._timer = self._loop.call_later(HEARTBEAT, self._beat, now + HEARTBEAT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, content_type, body = await self._answer(scope)
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Scope) -> tuple[int, str, bytes]:
        path = scope["path"]
        if path not in PATHS:
            return _json(404, {"error": f"the admin port serves {', '.join(PATHS)}"})
        if scope["method"] not in ("GET", "HEAD"):
            return _json(405, {"error": "use GET"})
        if path == "/metrics":
            return await self._scraped(dict(scope["headers"]).get(b"accept", b"").decode("latin-1"))
        verdict: Verdict
        if path == "/livez":
            verdict = liveness(self.loop_lag)
        elif path == "/readyz":
            verdict = readiness(self._runtime)
        else:
            verdict = startup(self._runtime)
        return _json(200 if verdict.good else 503, {"app": self._app, **verdict.body})

    async def _scraped(self, accept: str) -> tuple[int, str, bytes]:
        metrics = self._metrics
        if metrics is None:
            from headrace.observe.metrics import Metrics

            metrics = self._metrics = Metrics()
            metrics.runtime = self._runtime
        await self._count_dead_letters(metrics)
        metrics.loop_lag = self.loop_lag
        content_type, body = metrics.exposition(accept)
        return 200, content_type, body

    async def _count_dead_letters(self, metrics: Metrics) -> None:
        """Refresh the counts now and then; a store that is slow or away costs a scrape a second at most."""
        runtime = self._runtime
        if runtime is None or runtime.draining or self._loop.time() - self._counted < COUNTS_FOR:
            return
        if self._counting is None or self._counting.done():
            self._counting = self._loop.create_task(self._count(runtime, metrics))
        await asyncio.wait((self._counting,), timeout=COUNTS_WITHIN)

    async def _count(self, runtime: Runtime, metrics: Metrics) -> None:
        try:
            counts = await runtime.dead_letters.counts(self._app)
        except Exception as error:  # noqa: BLE001 - the scrape shows the counts of before
            log.warning("dead letters could not be counted: %s: %s", type(error).__name__, error)
        else:
            # A handler without letters shows zero, so that an alert on it can resolve.
            none = {handler.measures.name: (0, 0.0) for handler in runtime.handlers}
            metrics.dead_letters = {**none, **counts}
        self._counted = self._loop.time()


def _json(status: int, document: dict[str, Any]) -> tuple[int, str, bytes]:
    return status, "application/json", msgspec.json.encode(document) + b"\n"
