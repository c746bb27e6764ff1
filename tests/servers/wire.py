"""A wire that a test can break: a TCP proxy in front of a server.

Through it a test cuts connections after an exact number of bytes, resets them, leaves them half open, slows them down or
refuses new ones, without touching the server or anybody else's connections. It runs on a thread of its own, so it works
under any event loop and none.

    with Wire(server.port) as wire:
        ...connect to wire.port...
        wire.cut_after(100, towards="client")
"""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, Self

from tests.servers.ports import HOST

Towards = Literal["client", "server"]
Ending = Literal["close", "reset", "freeze"]

_CHUNK = 65536
# What one direction of one connection holds while it is slowed or frozen; then the sender feels it.
_HELD = 64


class Wire:
    """A proxy on a free loopback port in front of ``server_port``.

    Args:
        server_port: where to forward to, on loopback.
        port: where to listen; a free port where none is given.

    Attributes:
        latency: seconds that every chunk is delayed by, each way.
        bandwidth: bytes a second, each way and connection; ``None`` is unlimited.
    """

    def __init__(self, server_port: int, *, port: int = 0) -> None:
        self.server_port = server_port
        self.port = port
        self.latency = 0.0
        self.bandwidth: float | None = None
        self.accepted = 0
        self._links: set[_Link] = set()
        self._cut: tuple[int, Towards, Ending] | None = None
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._changed = threading.Condition()

    def start(self) -> Self:
        self._thread.start()
        self._flowing.set()
        self._run(self._listen())
        return self

    def close(self) -> None:
        """Reset what is connected and stop listening."""
        if self._thread.is_alive():
            self._run(self._shut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
        self._loop.close()

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    def wait_for(self, condition: Callable[[], bool], *, timeout: float = 10.0) -> None:
        """Wait until ``condition`` holds; it is asked whenever a connection comes or goes. ``timeout`` in seconds.

        Raises:
            TimeoutError: it did not come to hold.
        """
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise TimeoutError(f"the wire to {HOST}:{self.server_port} did not get there ({self.connections} open)")

    def cut(self) -> None:
        """Close every open connection in good order (FIN)."""
        self._call(self._end_all, "close")

    def reset(self) -> None:
        """Break every open connection off (RST)."""
        self._call(self._end_all, "reset")

    def cut_after(self, count: int, *, towards: Towards, ending: Ending = "reset") -> None:
        """End each connection when exactly ``count`` more bytes have gone ``towards`` one side of it.

        It holds for open connections and for those to come, until ``heal``. ``ending``: ``close`` (FIN), ``reset`` (RST)
        or ``freeze``: the connection stays open and nothing more passes.
        """
        self._call(self._set_cut, (count, towards, ending))

    def freeze(self) -> None:
        """Half open: forward nothing, close nothing, accept new connections and leave them unanswered."""
        self._call(self._flowing.clear)

    def refuse(self) -> None:
        """Stop listening: a new connection is refused. Open ones go on."""
        self._run(self._stop_listening())

    def heal(self) -> None:
        """Everything as at the beginning. What was held back flows; what a cut froze is reset."""
        self._run(self._heal())

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, HOST, self.port, limit=_CHUNK)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    async def _heal(self) -> None:
        self.latency, self.bandwidth, self._cut = 0.0, None, None
        for link in list(self._links):
            link.left = None
            if link.frozen:
                link.end("reset")
        self._flowing.set()
        if self._listener is None:
            await self._listen()

    async def _shut(self) -> None:
        await self._stop_listening()
        self._end_all("reset")
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _set_cut(self, cut: tuple[int, Towards, Ending]) -> None:
        self._cut = cut
        for link in self._links:
            link.left = cut

    def _end_all(self, ending: Ending) -> None:
        for link in list(self._links):
            link.end(ending)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        await self._flowing.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self.server_port, limit=_CHUNK)
        except OSError:
            # The server is down: the client sees what it would see without the wire.
            _reset(writer)
            return
        link = _Link(self._cut, writer, far_writer)
        self._links.add(link)
        self._notify()
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, reader, far_writer, "server"))
                pumps.create_task(self._pump(link, far_reader, writer, "client"))
        finally:
            link.end("close")
            self._links.discard(link)
            self._notify()

    async def _pump(
        self, link: "_Link", reader: asyncio.StreamReader, writer: asyncio.StreamWriter, towards: Towards
    ) -> None:
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_HELD)
        forwarding = asyncio.create_task(self._forward(link, held, writer, towards))
        try:
            while chunk := await reader.read(_CHUNK):
                await held.put((time.monotonic() + self.latency, chunk))
        except OSError:
            link.end("reset")
        finally:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                forwarding.cancel()
            else:
                await held.put((time.monotonic() + self.latency, b""))
            await asyncio.gather(forwarding, return_exceptions=True)

    async def _forward(
        self, link: "_Link", held: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, towards: Towards
    ) -> None:
        while True:
            due, chunk = await held.get()
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            await self._flowing.wait()
            if link.ended:
                return
            if not chunk:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            allowed = link.take(len(chunk), towards)
            try:
                writer.write(chunk[:allowed])
                await writer.drain()
            except OSError:
                link.end("reset")
                return
            if allowed < len(chunk) or link.is_spent(towards):
                await link.cut()
                return
            if self.bandwidth:
                await asyncio.sleep(len(chunk) / self.bandwidth)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        done: Future[None] = Future()

        def call() -> None:
            try:
                done.set_result(function(*args))
            except Exception as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(call)
        done.result(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Link:
    """One connection through the wire: both sockets, and the cut that awaits it."""

    def __init__(self, cut: tuple[int, Towards, Ending] | None, *writers: asyncio.StreamWriter) -> None:
        self.left = cut
        self.frozen = False
        self.ended = False
        self._writers = writers

    def take(self, size: int, towards: Towards) -> int:
        """How many of ``size`` bytes may still pass, counted as passed."""
        if self.left is None or self.left[1] != towards:
            return size
        count, _, ending = self.left
        allowed = min(size, count)
        self.left = (count - allowed, towards, ending)
        return allowed

    def is_spent(self, towards: Towards) -> bool:
        return self.left is not None and self.left[1] == towards and self.left[0] == 0

    async def cut(self) -> None:
        assert self.left is not None
        ending = self.left[2]
        if ending == "freeze":
            self.frozen = True
            await asyncio.get_running_loop().create_future()
        if ending == "reset":
            # What was allowed to pass must reach the client before the reset does: a reset discards what is unread.
            await asyncio.sleep(0.05)
        self.end(ending)

    def end(self, ending: Ending) -> None:
        if self.ended:
            return
        self.ended = True
        for writer in self._writers:
            if ending == "reset":
                _reset(writer)
            else:
                writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN: a socket that lingers for no time is broken off."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
