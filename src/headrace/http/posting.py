"""One POST to a configured URL, and what its answer means: what the sinks over HTTP share.

No redirects are followed; private addresses are refused unless allowed, and the address that was judged is the one that
is called. Statuses that waiting may mend (404, 408, 409, 425, 429, 5xx; http-webhook.md, 2.2, RFC 9110) are transient:
where a handler publishes, the
engine waits, for as long as Retry-After says, and repeats the publication. Any other answer is final.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from headrace.engine.sink import Published
from headrace.errors import ConfigurationError, ConnectionFailed, PublishFailed, RefusedError, SinkUnreachable
from headrace.http.addresses import guarded_resolver, resolve

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Poster", "Target"]

TRANSIENT: Final = frozenset((404, 408, 409, 425, 429))
#: A server that asks for more waits for the next attempt like anyone else; seconds.
LONGEST_RETRY_AFTER: Final = 3600.0
#: Bytes of an answer that are read so that its connection can be used again, and characters of it that are told.
DRAINED: Final = 64 * 1024
TOLD: Final = 300


class Target:
    """Where requests go, checked.

    Args:
        what: the declaration that errors name.
        url: ``http://`` or ``https://``, without credentials.
        headers: of every request; never logged.
        timeout: seconds for one request, its connection included.
        allow_private: the host may have a private, loopback or link-local address.

    Raises:
        ConfigurationError: a URL or setting that cannot be.
    """

    def __init__(
        self, what: str, url: str, *, headers: Mapping[str, str] | None, timeout: float, allow_private: bool
    ) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigurationError(f"{what}: the URL cannot be read: {error}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigurationError(f"{what}: the URL begins with http:// or https:// and names a host")
        if parts.username is not None or parts.password is not None:
            raise ConfigurationError(f"{what}: credentials do not belong in the URL; give them as headers=")
        if timeout <= 0:
            raise ConfigurationError(f"{what}: timeout is seconds above 0")
        self.url = url
        self.host = host
        self.port = port or (443 if parts.scheme == "https" else 80)
        self.headers = dict(headers or {})
        self.timeout = timeout
        self.allow_private = allow_private


class Poster:
    """A pooled client of one target, up to ``connections`` requests at once. ``name`` is what messages call it."""

    def __init__(self, name: str, target: Target, *, connections: int) -> None:
        self.name = name
        self._target = target
        self._connections = connections
        self._client: aiohttp.ClientSession | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Resolve and judge the address; make the client. Raises `RefusedError`, `ConnectionFailed`."""
        if self._client is not None:
            return
        target = self._target
        await resolve(target.host, target.port, allow_private=target.allow_private)
        import aiohttp

        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=guarded_resolver(target.allow_private), limit=self._connections),
            timeout=aiohttp.ClientTimeout(total=target.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=target.headers,
            trust_env=False,
        )
        self._keeper = asyncio.get_running_loop().create_task(_closed_at_the_end(self._client))

    async def post(self, body: bytes, headers: Sequence[tuple[str, str]]) -> Published | PublishFailed:
        """One request: confirmed by a 2xx, else how it failed."""
        import aiohttp

        client = self._client
        if client is None:
            return PublishFailed(f"{self.name}: the sink is closed; open it first", transient=True)
        try:
            async with client.post(self._target.url, data=body, headers=headers, allow_redirects=False) as response:
                said = await response.content.read(DRAINED)
                if 200 <= response.status < 300:
                    return Published(position=str(response.status))
                return self._failure(response.status, response.headers.get("Retry-After"), said)
        except RefusedError as error:
            return PublishFailed(f"{self.name}: {error}", transient=False)
        except TimeoutError:
            seconds = self._target.timeout
            return PublishFailed(f"{self.name} did not answer within {seconds:g} s; is it overloaded?", transient=True)
        except (aiohttp.ClientError, ConnectionFailed, OSError) as error:
            reason = type(error).__name__
            return SinkUnreachable(f"{self.name} cannot be reached ({reason}); is it running?")

    def _failure(self, status: int, retry_after: str | None, said: bytes) -> PublishFailed:
        if status in TRANSIENT or status >= 500:
            seconds = retry_after_seconds(retry_after)
            asked = "" if seconds is None else f", and asks for {seconds:g} s of patience"
            return PublishFailed(
                f"{self.name} answered {status}: it does not take events now{asked}",
                transient=True,
                retry_after=seconds,
            )
        if 300 <= status < 400:
            remedy = "redirects are not followed: give the final URL"
        else:
            text = said.decode("utf-8", "replace").strip()[:TOLD]
            remedy = f"it does not take this event{': ' if text else ''}{text}"
        return PublishFailed(f"{self.name} answered {status}: {remedy}", transient=False)

    async def close(self) -> None:
        """Close its connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()


async def _closed_at_the_end(client: aiohttp.ClientSession) -> None:
    """Closes a client that nobody closed: a program that only publishes ends with its loop, which cancels this."""
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await client.close()


def retry_after_seconds(retry_after: str | None) -> float | None:
    """Retry-After (RFC 9110, 10.2.3): seconds, or a date; ``None`` where it is neither."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_RETRY_AFTER)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
