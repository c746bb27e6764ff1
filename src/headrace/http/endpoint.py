"""`Endpoint`: a sink that POSTs events to a URL and takes a 2xx for the confirmation (see `headrace.http.posting`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from headrace.engine.sink import Publication, Published
from headrace.errors import ConfigurationError, InvalidEvent, PublishFailed
from headrace.http.answers import message
from headrace.http.posting import Poster, Target

if TYPE_CHECKING:
    from headrace.engine.broker import Broker

__all__ = ["Endpoint"]


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
        self.target = Target("Endpoint", url, headers=headers, timeout=timeout, allow_private=allow_private)
        if mode not in ("binary", "structured"):
            raise ConfigurationError(f'Endpoint: mode is "binary" or "structured"; got {mode!r}')
        if connections < 1:
            raise ConfigurationError("Endpoint: connections is at least 1")
        self.mode = mode
        self.connections = connections
        self.name = name or f"http:{self.target.host}"

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r})"

    def sink(self, broker: Broker | None) -> EndpointSink:
        """The sink; it needs no broker."""
        return EndpointSink(self)


class EndpointSink:
    """Implements `headrace.engine.sink.Sink`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.name = endpoint.name
        self._poster = Poster(endpoint.name, endpoint.target, connections=endpoint.connections)
        self._turns = asyncio.Semaphore(endpoint.connections)

    async def open(self) -> None:
        """Resolve and judge the address. Raises `RefusedError`, `ConnectionFailed`."""
        await self._poster.open()

    async def publish(self, publications: Sequence[Publication]) -> Sequence[Published | Exception]:
        """One request each, ``connections`` of them at once; a result per publication."""
        if len(publications) == 1 or self.endpoint.connections == 1:
            return [await self._send(publication) for publication in publications]
        return await asyncio.gather(*(self._send(publication) for publication in publications))

    async def _send(self, publication: Publication) -> Published | Exception:
        from headrace.cloudevents import http

        event = publication.event
        if publication.key is not None:
            event = event.replace(partitionkey=publication.key)
        try:
            headers, body = message(event) if self.endpoint.mode == "binary" else http.structured(event)
        except InvalidEvent as error:
            return PublishFailed(f"{self.name}: {error}", transient=False)
        async with self._turns:
            return await self._poster.post(body, [*headers, *publication.headers])

    async def close(self) -> None:
        """Close its connections."""
        await self._poster.close()
