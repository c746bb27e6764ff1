"""JetStream's API: JSON requests under `$JS.API`, and what its answers mean.

Configurations stay plain dicts, so that what a server of another version says survives a change by us.
Source: https://docs.nats.io/reference/reference-protocols/nats_api_reference.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.nats.client import Connection

__all__ = ["Api", "ApiError", "nanoseconds"]

Json = dict[str, Any]

CONSUMER_NOT_FOUND: Final = 10014
CONSUMER_EXISTS: Final = 10148
STREAM_NOT_FOUND: Final = 10059
STREAM_NAME_IN_USE: Final = 10058
SUBJECTS_OVERLAP: Final = 10065
WRONG_LAST_SEQUENCE: Final = (10071, 10164)
NO_MESSAGE: Final = 10037
#: Consumers that a work-queue stream refuses beside those that it has.
WORKQUEUE_CONSUMERS: Final = (10099, 10100)
NOT_ENABLED: Final = (10039, 10076)

_decode = msgspec.json.Decoder(Json).decode
_encode = msgspec.json.Encoder().encode


class ApiError(HeadraceError):
    """JetStream answered with an error. ``code`` is like HTTP's, ``err_code`` is JetStream's own."""

    exit_code = 4

    def __init__(self, subject: str, code: int, err_code: int, description: str) -> None:
        super().__init__(f"JetStream refused {subject}: {description} (error {err_code})")
        self.code = code
        self.err_code = err_code
        self.description = description

    @property
    def transient(self) -> bool:
        """Waiting may mend it: no leader, a server that is short of something, a stream being moved."""
        return self.code in (408, 429, 500, 503) and self.err_code not in NOT_ENABLED


class Api:
    """Requests to JetStream over one connection. Each raises `ApiError` for a refusal and `Silent` without an answer."""

    def __init__(self, connection: Connection, *, domain: str = "", timeout: float = 5.0) -> None:
        self.connection = connection
        self.prefix = f"$JS.{domain}.API." if domain else "$JS.API."
        self.timeout = timeout

    async def call(self, verb: str, request: Json | None = None, *, timeout: float | None = None) -> Json:
        """One request and its answer."""
        subject = self.prefix + verb
        body = b"" if request is None else _encode(request)
        _, answer = await self.connection.requests.ask(subject, body, timeout=timeout or self.timeout)
        found = _decode(answer)
        error = found.get("error")
        if error is not None:
            raise ApiError(
                verb, error.get("code", 0), error.get("err_code", 0), error.get("description", "no description")
            )
        return found

    async def pages(self, verb: str, member: str, request: Json | None = None) -> AsyncIterator[Any]:
        """Every item of a list that comes in pages."""
        offset = 0
        while True:
            page = await self.call(verb, {**(request or {}), "offset": offset})
            items = page.get(member) or []
            for item in items:
                yield item
            offset += len(items)
            if not items or offset >= page.get("total", 0):
                return

    async def stream(self, name: str) -> Json | None:
        """A stream's configuration and state, or ``None`` where there is none."""
        try:
            return await self.call(f"STREAM.INFO.{name}")
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise

    async def stream_of(self, subject: str) -> str | None:
        """The name of the stream that captures a subject, or ``None``."""
        found = await self.call("STREAM.NAMES", {"subject": subject})
        names = found.get("streams") or []
        return names[0] if names else None

    async def consumer(self, stream: str, name: str) -> Json | None:
        """A consumer's configuration and state, or ``None`` where it or its stream is not there."""
        try:
            return await self.call(f"CONSUMER.INFO.{stream}.{name}")
        except ApiError as error:
            if error.err_code in (CONSUMER_NOT_FOUND, STREAM_NOT_FOUND):
                return None
            raise

    async def create_consumer(self, stream: str, config: Json, *, action: str = "create") -> Json:
        """Create (or with ``action="update"`` change) a durable consumer."""
        request = {"stream_name": stream, "config": config, "action": action}
        return await self.call(f"CONSUMER.CREATE.{stream}.{config['durable_name']}", request)


def nanoseconds(seconds: float) -> int:
    """Seconds as JetStream counts time."""
    return round(seconds * 1_000_000_000)
