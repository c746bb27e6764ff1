"""`Endpoint`: a sink that POSTs events to a URL and takes a 2xx for the confirmation.

No redirects are followed; private addresses are refused unless allowed, and the address that was judged is the one that
is called. Statuses that waiting may mend (404, 408, 409, 425, 429, 5xx; http-webhook.md, 2.2, RFC 9110) are transient:
the engine waits, for as long as Retry-After says, and repeats the publication. Any other answer is final.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from headrace.engine.sink import Publication, Published
from headrace.errors import (
    ConfigurationError,
    ConnectionFailed,
    InvalidEvent,
    PublishFailed,
    RefusedError,
    SinkUnreachable,
)
from headrace.http.addresses import guarded_resolver, resolve
from headrace.http.answers import message

if TYPE_CHECKING:
    import aiohttp

    from headrace.engine.broker import Broker

__all__ = ["Endpoint", "retry_after_seconds"]

TRANSIENT: Final = frozenset((404, 408, 409, 425, 429))
#: A server that asks for more waits for the next attempt like anyone else; seconds.
LONGEST_RETRY_AFTER: Final = 3600.0
#: Bytes of an answer that are read so that its connection can be used again.
DRAINED: Final = 64 * 1024


class Endpoint:
    """Events to a URL: binary mode, or structured.

    Args:
        url: ``http://`` or ``https://``.
        mode: content mode of the requests. An event without data, or whose data has no type, is sent in structured mode
            in either case: a web hook's request has a payload and its Content-Type (http-webhook.md, 2.1).
        headers: further request headers (credentials); never logged.
        timeout: seconds for one request, its connection included.
        connections: requests at once. One keeps the order of publications; more do not.
        allow_private: the host may have a private, loopback or link-local address.
        name: what metrics and messages call it; default: ``http:`` and the host.

    Raises:
        ConfigurationError: a URL or setting that cannot be.
    """

    def __init__(
        self,
        url: str,
        *,
        mode: Literal["binary", "structured"] = "binary",
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        connections: int = 16,
        allow_private: bool = False,
        name: str | None = None,
    ) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigurationError(f"Endpoint: the URL cannot be read: {error}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigurationError("Endpoint: the URL begins with http:// or https:// and names a host")
        if parts.username is not None or parts.password is not None:
            raise ConfigurationError("Endpoint: credentials do not belong in the URL; give them as headers=")
        if mode not in ("binary", "structured"):
            raise ConfigurationError(f'Endpoint: mode is "binary" or "structured"; got {mode!r}')
        if timeout <= 0 or connections < 1:
            raise ConfigurationError("Endpoint: timeout is seconds above 0, connections at least 1")
        self.url = url
        self.host = host
        self.port = port or (443 if parts.scheme == "https" else 80)
        self.mode = mode
        self.headers = dict(headers or {})
        self.timeout = timeout
        self.connections = connections
        self.allow_private = allow_private
        self.name = name or f"http:{host}"

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r})"

    def sink(self, broker: Broker | None) -> EndpointSink:
        """The sink; it needs no broker."""
        return EndpointSink(self)


class EndpointSink:
    """Implements `headrace.engine.sink.Sink` with a pooled client."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.name = endpoint.name
        self._client: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(endpoint.connections)

    async def open(self) -> None:
        """Resolve and judge the address; make the client. Raises `RefusedError`, `ConnectionFailed`."""
        if self._client is not None:
            return
        endpoint = self.endpoint
        await resolve(endpoint.host, endpoint.port, allow_private=endpoint.allow_private)
        import aiohttp

        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=guarded_resolver(endpoint.allow_private), limit=endpoint.connections
            ),
            timeout=aiohttp.ClientTimeout(total=endpoint.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=endpoint.headers,
            trust_env=False,
        )

    async def publish(self, publications: Sequence[Publication]) -> Sequence[Published | Exception]:
        """One request each, ``connections`` of them at once; a result per publication."""
        if len(publications) == 1 or self.endpoint.connections == 1:
            return [await self._send(publication) for publication in publications]
        return await asyncio.gather(*(self._send(publication) for publication in publications))

    async def _send(self, publication: Publication) -> Published | Exception:
        import aiohttp

        from headrace.cloudevents import http

        client = self._client
        if client is None:
            return PublishFailed(f"{self.name}: the sink is closed; open it first", transient=True)
        event = publication.event
        if publication.key is not None:
            event = event.replace(partitionkey=publication.key)
        try:
            headers, body = message(event) if self.endpoint.mode == "binary" else http.structured(event)
        except InvalidEvent as error:
            return PublishFailed(f"{self.name}: {error}", transient=False)
        try:
            async with (
                self._turns,
                client.post(
                    self.endpoint.url, data=body, headers=[*headers, *publication.headers], allow_redirects=False
                ) as response,
            ):
                await response.content.read(DRAINED)
                if 200 <= response.status < 300:
                    return Published(position=str(response.status))
                return self._failure(response.status, response.headers.get("Retry-After"))
        except RefusedError as error:
            return PublishFailed(f"{self.name}: {error}", transient=False)
        except TimeoutError:
            seconds = self.endpoint.timeout
            return PublishFailed(f"{self.name} did not answer within {seconds:g} s; is it overloaded?", transient=True)
        except (aiohttp.ClientError, ConnectionFailed, OSError) as error:
            reason = type(error).__name__
            return SinkUnreachable(f"{self.name} cannot be reached ({reason}); is it running?")

    def _failure(self, status: int, retry_after: str | None) -> PublishFailed:
        if status in TRANSIENT or status >= 500:
            return PublishFailed(
                f"{self.name} answered {status}; it is tried again",
                transient=True,
                retry_after=retry_after_seconds(retry_after),
            )
        remedy = (
            "redirects are not followed: give the final URL" if 300 <= status < 400 else "it does not take this event"
        )
        return PublishFailed(f"{self.name} answered {status}: {remedy}", transient=False)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
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
