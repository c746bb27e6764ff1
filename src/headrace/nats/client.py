"""The connection: nats-py's client with our own reading end, batched writes, and a way back after every outage.

nats-py keeps what it is good at: the handshake with its credentials and TLS, the pool of servers, pings. Taken over here:
messages (`Link`), requests (`Requests`), and reconnecting, which never gives up.

`written` says whether bytes went to a live connection; nobody else buffers for an outage, so that nothing old is sent after
it: sources and publishers are told (`on_connect`) and send what still matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import nats.errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from headrace.errors import ConnectionFailed
from headrace.nats.requests import Requests, Silent
from headrace.nats.wire import Link, Tap

if TYPE_CHECKING:
    from headrace.nats.credentials import Address

__all__ = ["Connection"]

log = logging.getLogger("headrace.nats")

_BUFFER: Final = 256 * 1024
_PING_EVERY: Final = 5
_CONNECT_TIMEOUT: Final = 3
_BACKOFF: Final = (0.05, 5.0)
_REFUSALS: Final = ("authorization", "authentication", "credentials", "user authentication", "nonce", "nkey")


class _Transport(TcpTransport):
    """Writes once an iteration of the loop: acknowledgements, pulls and publications of one iteration leave together, for
    a system call costs more than what they are about.

    Closes at once: a peer that has stopped reading would hold a close that waits for the write buffer for ever.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._queued: list[bytes] = []

    def close(self) -> None:
        self._queued.clear()
        if self._io_writer is not None:
            self._io_writer.transport.abort()

    @property
    def gone(self) -> bool:
        """Whether nothing can be written any more; known to the transport before the end is told."""
        return self._io_writer is None or self._io_writer.transport.is_closing()

    def write(self, payload: bytes) -> None:
        if not self._queued:
            asyncio.get_running_loop().call_soon(self._send)
        self._queued.append(payload)

    def writelines(self, payload: list[bytes]) -> None:
        self.write(b"".join(payload))

    def _send(self) -> None:
        queued, self._queued = self._queued, []
        # What goes to a connection that has just ended is lost, as it is a moment later; uvloop raises instead.
        if queued and not self.gone:
            super().write(b"".join(queued))  # type: ignore[no-untyped-call]

    async def drain(self) -> None:
        self._send()
        if self._io_writer is not None:
            await self._io_writer.drain()

    async def wait_closed(self) -> None:
        # `close` has aborted it: only its last call-backs are due. The writer of a TLS handshake that failed never hears of
        # its end, so that waiting for it would be for ever.
        await asyncio.sleep(0)


class Connection(Client):
    """One connection, shared by every source and sink of a broker.

    ``refused`` is set while the server refuses our credentials; ``trouble`` is the last error in words, empty when connected.
    """

    def __init__(self, address: Address, name: str) -> None:
        super().__init__()
        self.address = address
        self.refused = asyncio.Event()
        self.lost: ConnectionFailed | None = None
        self.trouble = ""
        self.reconnects = 0
        self.on_connect: list[Callable[[], None]] = []
        self.on_disconnect: list[Callable[[], None]] = []
        self._name = name
        self._taps: dict[bytes, Tap] = {}
        self._link: Link | None = None
        self._delay = _BACKOFF[0]
        self._refused_since: float | None = None
        self.requests = Requests(self)
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def _socket(self) -> _Transport | None:
        return cast("_Transport | None", self._transport)

    # Opening and closing

    async def open(self, ready_within: float) -> None:
        """Connect.

        Raises:
            ConnectionFailed: no server answered within ``ready_within`` seconds, or one refused us (at once).
        """
        connecting = asyncio.ensure_future(
            self.connect(
                servers=list(self.address.servers),
                name=self._name,
                error_cb=self._failed,
                disconnected_cb=self._disconnected,
                reconnected_cb=self._reconnected,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0,
                connect_timeout=_CONNECT_TIMEOUT,
                ping_interval=_PING_EVERY,
                max_outstanding_pings=2,
                pending_size=64 * 1024 * 1024,
                **self.address.options,
            )
        )
        refused = asyncio.ensure_future(self.refused.wait())
        try:
            await asyncio.wait({connecting, refused}, timeout=ready_within, return_when=asyncio.FIRST_COMPLETED)
            error: BaseException | None = None
            if connecting.done():
                error = connecting.exception()
                if error is None:
                    # A round trip: from here on our own reading end is in place.
                    await self.flush(_CONNECT_TIMEOUT)
                    self._connected()
                    return
            raise self._why(ready_within, error)
        finally:
            refused.cancel()
            while not connecting.done():
                # Again and again: asyncio.wait_for of Python 3.11 loses a cancellation that meets the end of an attempt.
                connecting.cancel()
                await asyncio.wait({connecting}, timeout=0.1)
            if not self.is_connected:
                await self._abandon()

    def _why(self, ready_within: float, error: BaseException | None) -> ConnectionFailed:
        trouble = str(error) if error is not None else self.trouble
        if self.refused.is_set():
            return ConnectionFailed(
                f"NATS at {self.address.shown} refused the connection: {trouble}. Check the credentials and the TLS files."
            )
        return ConnectionFailed(
            f"NATS at {self.address.shown} could not be reached within {ready_within:g} s: {trouble or 'no answer'}. "
            "Is the server running, and is the address right?"
        )

    async def _abandon(self) -> None:
        self._status = Client.CLOSED
        if self._socket is not None:
            self._socket.close()

    async def shut(self) -> None:
        """Let what is written reach the server, then close."""
        for task in list(self._tasks):
            task.cancel()
        if self.is_connected:
            try:
                await self.flush(2)
            except Exception as error:  # noqa: BLE001 - it is closed all the same; what was not confirmed comes again
                log.debug("NATS: the last words were not confirmed: %s", error)
        await self.close()

    # Hooks of nats-py's client

    async def _select_next_server(self) -> None:
        while True:
            server = self._server_pool.pop(0)
            self._server_pool.append(server)
            if server.last_attempt is not None:
                await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))
                self._delay = min(self._delay * 2, _BACKOFF[1])
            try:
                await self._connect_to_server(server)
            except (OSError, TimeoutError, nats.errors.Error) as error:
                await self._failed(error)
                continue
            self._current_server = server
            return

    async def _connect_to_server(self, s: Any) -> None:
        self._end_of_attempt()
        s.last_attempt = asyncio.get_running_loop().time()
        transport = _Transport()
        await transport.connect(s.uri, buffer_size=_BUFFER, connect_timeout=_CONNECT_TIMEOUT)
        self._transport = transport

    def _end_of_attempt(self) -> None:
        """End what an earlier attempt left running: its socket, its reader, its pings."""
        if self._socket is not None:
            self._socket.close()
            self._transport = None
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    async def _process_connect_init(self) -> None:
        try:
            if self._nkeys_seed is not None:
                # Who we are is in the file too, which may have been replaced; nats-py reads only the signature anew.
                self._setup_nkeys_seed_connect()
            await super()._process_connect_init()
        except (OSError, TimeoutError, nats.errors.Error):
            raise
        except Exception as error:
            # Anything else (a credentials file that is gone or broken) would end nats-py's reconnecting in silence.
            raise nats.errors.Error(f"nats: {type(error).__name__}: {error}") from error

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """Read anew for each connection, so that replaced certificates are taken."""
        return self.address.context() if self.address.tls else ssl.create_default_context()

    def _connect_command(self) -> bytes:
        if self.address.tls:
            writer = cast(_Transport, self._transport)._io_writer
            if writer is None or writer.get_extra_info("ssl_object") is None:
                # Before the credentials are sent, not after.
                raise nats.errors.Error("nats: TLS is asked for, but the server does not offer it")
        return super()._connect_command()

    async def _read_loop(self) -> None:
        """Put our protocol into the transport, give it what has already arrived, and wait for the end."""
        transport = cast(_Transport, self._transport)
        reader, writer = transport._io_reader, transport._io_writer
        assert reader is not None
        assert writer is not None
        link = Link(self, self._taps, writer.transport.get_protocol())
        self._link = link
        writer.transport.set_protocol(link)
        early = cast(Any, reader)._buffer
        if early:
            data = bytes(early)
            early.clear()
            link.data_received(data)
        with contextlib.suppress(RuntimeError, NotImplementedError, AttributeError):
            # The stream reader may have paused a transport whose data it had not been asked for yet.
            cast(Any, writer.transport).resume_reading()
        if reader.at_eof() or writer.transport.is_closing():
            link.connection_lost(None)
        await asyncio.shield(link.closed)
        if self._link is link:
            await self._process_op_err(nats.errors.UnexpectedEOF())

    def broken(self, error: Exception) -> None:
        """What arrives is no NATS: start again."""
        self._start(self._process_op_err(nats.errors.ProtocolError(str(error))))

    def control(self, line: bytes) -> None:
        """A protocol line that is no message."""
        if line[:4] == b"PING":
            self.written(b"PONG\r\n")
        elif line[:4] == b"PONG":
            self._start_now(self._process_pong())
        elif line[:4] == b"INFO":
            self._server_info = json.loads(line[5:])
            # A server that reads its configuration again may take less than before.
            self._max_payload = self._server_info.get("max_payload", self._max_payload)
            self._start(self._process_info(self._server_info))
        elif line[:4] == b"-ERR":
            self._start(self._process_err(line[5:].strip().decode("utf-8", "replace").lower()))
        elif line[:3] != b"+OK":
            self.broken(ValueError(f"unknown protocol line {line[:40]!r}"))

    async def _process_err(self, err_msg: str) -> None:
        text = err_msg.strip("'")
        if "permissions violation" in text:
            log.error("NATS refused an operation: %s", text)
            self.trouble = text
            return
        # nats-py closes for good; a server that is restarted or reconfigured comes back, so we try again.
        await self._failed(nats.errors.Error(f"nats: {text}"))
        await self._process_op_err(nats.errors.Error(f"nats: {text}"))

    async def _process_op_err(self, e: Exception) -> None:
        if not self.trouble:
            self.trouble = _words(e)
        self._link = None
        await super()._process_op_err(e)

    async def _failed(self, error: Exception) -> None:
        """nats-py met an error: kept in words; refusals are told apart from outages."""
        words = _words(error)
        self.trouble = words
        if _refuses(error, words.lower()):
            now = asyncio.get_running_loop().time()
            if self._refused_since is None:
                self._refused_since = now
                log.error("NATS at %s refused the connection: %s", self.address.shown, words)
            self.refused.set()
            if self.lost is None and now - self._refused_since > self.address.refused_for:
                self.lost = self._why(0.0, None)
                for call in self.on_disconnect:
                    call()
        elif not isinstance(error, asyncio.CancelledError):
            log.debug("NATS at %s: %s", self.address.shown, words)

    async def _disconnected(self) -> None:
        self._link = None
        if self.is_closed:
            return
        log.warning("NATS connection lost: %s; reconnecting", self.trouble or "end of stream")
        self.requests.lost()
        for call in self.on_disconnect:
            call()

    async def _reconnected(self) -> None:
        self.reconnects += 1
        log.warning("NATS connection is back at %s", self.address.shown)
        self._connected()

    def _connected(self) -> None:
        self.trouble = ""
        self.refused.clear()
        self._refused_since = None
        self.lost = None
        self._delay = _BACKOFF[0]
        for call in list(self.on_connect):
            call()

    def _start(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    def _start_now(coroutine: Any) -> None:
        """Run a coroutine that never waits, such as nats-py's answer to PONG."""
        with contextlib.suppress(StopIteration):
            coroutine.send(None)

    # What sources and sinks use

    def written(self, data: bytes) -> bool:
        """Write to the live connection; ``False``, and nothing written, where there is none."""
        transport = self._socket
        if self._link is None or self._status != Client.CONNECTED or transport is None or transport.gone:
            return False
        transport.write(data)
        return True

    async def writable(self) -> None:
        """Wait until the socket takes more."""
        transport = self._socket
        if transport is not None:
            with contextlib.suppress(OSError):
                await transport.drain()

    async def round_trip(self, within: float = 5.0) -> None:
        """What was written before has been read by the server. Raises `Silent` where that is not known."""
        try:
            if not self.is_connected:
                raise Silent(f"not connected to NATS at {self.address.shown}")
            await self.flush(within)  # type: ignore[arg-type]
        except (TimeoutError, nats.errors.Error, OSError) as error:
            raise Silent(f"NATS at {self.address.shown} did not answer: {_words(error)}") from error

    def tap(self, subject: str, wake: Callable[[], None], *, queue: str = "") -> Tap:
        """Subscribe; survives reconnects until `untap`."""
        self._sid += 1
        tap = Tap(self._sid, subject, queue, wake)
        self._taps[tap.key] = tap
        self._subs[self._sid] = cast(Any, tap)
        self.written(f"SUB {subject} {queue} {self._sid}\r\n".replace("  ", " ").encode())
        return tap

    def untap(self, tap: Tap) -> None:
        """Unsubscribe; what arrives afterwards is dropped."""
        if self._taps.pop(tap.key, None) is not None:
            self._subs.pop(tap._id, None)
            self.written(b"UNSUB " + tap.key + b"\r\n")


def _refuses(error: Exception, words: str) -> bool:
    """Whether an error is about who we or the server are, so that the same attempt fails again."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return True
    if isinstance(error, ssl.SSLError):
        # The server's alert: it wants a certificate, or does not take ours.
        return "alert" in words and ("certificate" in words or "unknown ca" in words)
    return any(word in words for word in _REFUSALS)


def _words(error: Exception) -> str:
    text = str(error).removeprefix("nats: ").strip("'\" ")
    return text or type(error).__name__
