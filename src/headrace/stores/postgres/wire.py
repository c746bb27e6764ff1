"""One connection, with two things that the driver's own lacks.

Statements whose results nobody reads leave together in one packet: the driver's pipeline writes a packet for each of them, and
waits for the socket before every one. And a wait that is cancelled ends the connection, where the driver would ask the server to
cancel and wait for its answer, which takes as long as an outage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from typing import Any, Final, TypeVar

from psycopg import AsyncConnection, errors, waiting
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult

__all__ = ["Connection", "Statement"]

T = TypeVar("T")

#: SQL with ``$1`` …, and its parameters in the server's binary format.
Statement = tuple[bytes, Sequence[bytes]]

_GOOD: Final = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)
_READ: Final = waiting.Wait.R
_BOTH: Final = waiting.Wait.RW


class Connection(AsyncConnection[Any]):
    """``hasty``: while above zero, a cancelled wait ends the connection. Else it is the driver's own, as a handler may hold it."""

    hasty = 0

    async def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        if not self.hasty:
            return await super().wait(gen, *arguments, **options)
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, 1.0)
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise

    async def together(self, statements: Sequence[Statement]) -> None:
        """Run statements in one round trip; results are thrown away. Raises the driver's error for
        the first that failed: those behind it were not run."""
        async with self.lock:
            await self.wait(self._exchange(statements))

    def _exchange(self, statements: Sequence[Statement]) -> Generator[Any, Any, None]:
        server = self.pgconn
        if server.status != ConnStatus.OK:
            raise errors.OperationalError("the connection is closed")
        server.enter_pipeline_mode()
        for text, parameters in statements:
            # Not prepared by name: the driver deallocates all names of a connection when one of its own went stale.
            server.send_query_params(text, parameters or None, param_formats=[Format.BINARY] * len(parameters) or None)
        server.pipeline_sync()
        while server.flush():
            yield _BOTH
            server.consume_input()
        failed: PGresult | None = None
        while True:
            while server.is_busy():
                yield _READ
                server.consume_input()
            result = server.get_result()
            if result is None:
                continue
            if result.status == ExecStatus.PIPELINE_SYNC:
                break
            if failed is None and result.status not in _GOOD:
                failed = result
        server.exit_pipeline_mode()
        if failed is not None:
            raise errors.error_from_result(failed, encoding=self.info.encoding)
