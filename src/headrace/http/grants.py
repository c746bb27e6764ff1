"""Permission that is given by callback: the second way of the webhook handshake (http-webhook.md 1.0.2, section 4.1.3).

The answer to OPTIONS withholds its headers then, and a POST to the callback of the request gives them. Only hosts that
the receiver names are called: the URL comes from whoever sends the request.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from headrace.cloudevents.webhook import Validation, allowed_rate, allows

if TYPE_CHECKING:
    from headrace.http.receiver import Receiver

__all__ = ["Grants"]

log = logging.getLogger("headrace.http")

#: Callbacks that are requested at once; a sender whose turn does not come asks again.
AT_ONCE: Final = 8
#: Seconds for one request, and before each repetition.
TIMEOUT: Final = 10.0
PAUSES: Final = (0.0, 1.0, 5.0)


class Grants:
    """The callbacks of one receiver that are being requested."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._tasks: set[asyncio.Task[None]] = set()

    def gives(self, asked: Validation) -> bool:
        """Whether permission is given by the request's callback, and not in the answer."""
        callback = asked.callback
        return callback is not None and urlsplit(callback).hostname in self._receiver.callback_hosts

    def give(self, asked: Validation) -> None:
        """Request the callback in the background, where the origin is allowed."""
        if not allows(asked.origin, self._receiver.allowed_origins):
            return
        if len(self._tasks) >= AT_ONCE:
            log.warning("%s: %d callbacks are being requested; one was passed over", self._receiver.name, AT_ONCE)
            return
        task = asyncio.get_running_loop().create_task(self._give(asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what has not been answered."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _give(self, asked: Validation) -> None:
        import aiohttp

        url = asked.callback or ""
        headers = {
            "WebHook-Allowed-Origin": asked.origin,
            "WebHook-Allowed-Rate": allowed_rate(asked, rate=self._receiver.allowed_rate),
        }
        problem = ""
        for pause in PAUSES:
            await asyncio.sleep(pause)
            try:
                async with (
                    aiohttp.ClientSession(
                        timeout=aiohttp.ClientTimeout(total=TIMEOUT),
                        cookie_jar=aiohttp.DummyCookieJar(),
                        trust_env=False,
                    ) as client,
                    client.post(url, headers=headers, allow_redirects=False, ssl=ssl.create_default_context()) as reply,
                ):
                    if reply.status < 300:
                        log.info("%s: %s may deliver, by callback", self._receiver.name, asked.origin)
                        return
                    problem = f"status {reply.status}"
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                problem = type(error).__name__
        # The URL holds a key that lets anybody give permission; its host does not.
        log.error(
            "%s: the callback at %s, by which %s is allowed to deliver, failed: %s",
            self._receiver.name,
            urlsplit(url).hostname,
            asked.origin,
            problem,
        )
