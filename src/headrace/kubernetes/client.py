"""The thin client: requests and streams to one API server, with its credentials, TLS, proxy and refusals.

It knows paths and bytes, not resources. Every refusal is an `ApiError`, everything that never reached the server or
broke on the way a `ConnectionFailed`; nothing of the HTTP library gets out. One client serves every watch and every
action of a process on one cluster.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from headrace.errors import ConfigurationError, ConnectionFailed
from headrace.kubernetes.credentials import Credentials
from headrace.kubernetes.kubeconfig import ClusterConfig
from headrace.kubernetes.status import ApiError, Status, decode_status

__all__ = ["Answer", "Client", "Query"]

Query = Sequence[tuple[str, str]]

#: Seconds to connect, TLS included.
_CONNECT: Final = 10.0
#: Seconds for a whole request that is no watch.
_REQUEST: Final = 60.0
#: A dead peer is noticed within idle + interval × count = 30 s, even on a connection where nothing is sent.
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_COUNT = 15, 5, 3


class Client:
    """One cluster as one user.

    Attributes:
        cluster: its configuration.
        trouble: why the last request was refused or failed, in one sentence; empty after a success.
    """

    def __init__(self, cluster: ClusterConfig, *, credentials: Credentials | None = None) -> None:
        self.cluster = cluster
        self.trouble = ""
        self._credentials = credentials or Credentials(cluster)
        self._base = cluster.server
        self._proxy = _proxy(cluster)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = _REQUEST,
    ) -> bytes:
        """One request, its whole answer.

        Args:
            path: from the root, such as ``/api/v1/pods``.
            timeout: seconds for all of it.

        Raises:
            ApiError: the server refused it.
            ConnectionFailed: it did not reach the server, or the answer did not reach us; it may have been carried out.
        """
        async with self.stream(
            method, path, query=query, body=body, content_type=content_type, accept=accept, timeout=timeout
        ) as answer:
            return await answer.read()

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = _REQUEST,
    ) -> AsyncIterator[Answer]:
        """A request whose answer is read by the caller; ``timeout`` in seconds covers opening and reading. Raises
        as `request`."""
        answer = await self._open(method, path, query, body, content_type, accept, timeout)
        if answer.status == 401:
            answer.release()
            try:
                await self._credentials.refused()
            except ConnectionFailed as error:
                self.trouble = str(error)
                raise
            answer = await self._open(method, path, query, body, content_type, accept, timeout)
        try:
            if answer.status >= 400:
                raise await self._refusal(method, path, answer)
            self.trouble = ""
            yield Answer(self, answer, f"{method} {path}")
        finally:
            # A watch is never read to its end, so its connection cannot be used again.
            answer.close()

    async def _open(
        self, method: str, path: str, query: Query, body: bytes | None, content_type: str, accept: str, timeout: float
    ) -> aiohttp.ClientResponse:
        try:
            await self._credentials.prepare()
        except ConnectionFailed as error:
            self.trouble = str(error)
            raise
        headers: list[tuple[str, str]] = [("Accept", accept), *self._credentials.headers]
        if body is not None:
            headers.append(("Content-Type", content_type))
        if self._session is None:
            self._session = _session()
        tls = self._credentials.tls
        try:
            return await self._session.request(
                method,
                _url(self._base, path, query),
                data=body,
                headers=headers,
                ssl=True if tls is None else tls,
                server_hostname=self.cluster.tls_server_name,
                proxy=self._proxy,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=_CONNECT),
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError) as error:
            raise self.failed(f"{method} {path}", error) from error

    def failed(self, what: str, error: BaseException) -> ConnectionFailed:
        """What the HTTP library raised, as ours; noted as the client's trouble."""
        self.trouble = f"{what} at {self._base}: {_reason(error)}"
        return ConnectionFailed(self.trouble)

    async def _refusal(self, method: str, path: str, answer: aiohttp.ClientResponse) -> ApiError:
        try:
            body = await answer.content.read(64 * 1024)
        except (aiohttp.ClientError, TimeoutError, OSError):
            body = b""
        status: Status = decode_status(body, answer.status)
        error = ApiError(status, f"{method} {path}", retry_after=_retry_after(answer.headers))
        if answer.status in (401, 403, 429) or answer.status >= 500:
            self.trouble = str(error)
        return error


class Answer:
    """An accepted request's body, to be read once."""

    def __init__(self, client: Client, response: aiohttp.ClientResponse, what: str) -> None:
        self._client = client
        self._response = response
        self._what = what

    async def read(self) -> bytes:
        """All of it. Raises `ConnectionFailed` where it breaks off or takes too long."""
        try:
            return await self._response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._client.failed(self._what, error) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """What arrives, as it arrives. Raises as `read`; ends where the server ended it properly."""
        content = self._response.content
        try:
            while chunk := await content.readany():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._client.failed(self._what, error) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return "timed out"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        # Its own words name objects in memory.
        return f"cannot connect: {error.os_error.strerror or error.os_error}"
    return str(error) or repr(error)


def _session() -> aiohttp.ClientSession:
    # Without a limit: watches hold their connections for minutes, and must never starve each other or a repair.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30, socket_factory=_socket)
    return aiohttp.ClientSession(
        connector=connector,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        # Lists of megabytes cost more to unpack than to move; watches are never compressed.
        headers={"User-Agent": "headrace", "Accept-Encoding": "identity"},
        read_bufsize=1 << 18,
    )


def _socket(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", _KEEPALIVE_COUNT),
    ):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


def _url(base: str, path: str, query: Query) -> URL:
    url = URL(base + path, encoded=True)
    return url.with_query(list(query)) if query else url


def _proxy(cluster: ClusterConfig) -> str | None:
    """``proxy-url`` of the kubeconfig, else ``HTTPS_PROXY`` and friends with ``NO_PROXY``."""
    if cluster.proxy_url:
        return _http_proxy(cluster.proxy_url)
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    import urllib.request  # loads half of what Python knows of the web

    parts = urlsplit(cluster.server)
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(parts.scheme)
    host = parts.netloc.rpartition("@")[2]
    if not proxy or urllib.request.proxy_bypass_environment(host, proxies):  # type: ignore[attr-defined]
        return None
    return _http_proxy(proxy)


def _http_proxy(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"proxy {url.partition('://')[0]}:// cannot be used for Kubernetes; give an HTTP proxy"
        )
    return url


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    if not value:
        return None
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return None
