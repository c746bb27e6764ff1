"""The control socket of one process. See the package for what it promises."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.control.state import handler_detail, handler_row, traces

if TYPE_CHECKING:
    from headrace.engine.runtime import Runtime

__all__ = ["FOLDER", "Control", "socket_path"]

log = logging.getLogger("headrace.control")

#: Where sockets lie, below the current folder.
FOLDER = Path(".headrace")
#: Bytes of a request.
LONGEST = 64 * 1024
#: The reason under which an operator pauses; the engine has others of its own.
OPERATOR = "operator"


def socket_path(app: str, pid: int) -> Path:
    """Names carry app and pid, so that workers and replicas share a folder."""
    return FOLDER / f"{app}-{pid}.sock"


class Control:
    """Answers requests about a running app: ``async with Control(runtime): …``.

    Where the socket cannot be made (a read-only folder), one warning says so and the app runs without it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._path = socket_path(runtime.app_name, os.getpid())
        self._server: asyncio.Server | None = None
        self._pauses: dict[str, dict[str, str]] = {}
        self._connections: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Control:
        try:
            listening = self._bind()
        except OSError as error:
            log.warning(
                "no control socket at %s: %s; headrace handlers and trace will not reach this process",
                self._path,
                error,
            )
            return self
        self._server = await asyncio.start_unix_server(self._serve, sock=listening, limit=LONGEST)
        return self

    def _bind(self) -> socket.socket:
        """A socket that was never open to others, and that listens before it has its name: a client takes a socket that
        refuses it for one that a dead process left."""
        FOLDER.mkdir(exist_ok=True)
        unnamed = self._path.with_suffix(".binding")
        with contextlib.suppress(FileNotFoundError):
            unnamed.unlink()  # of a process that died with our pid
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listening.bind(str(unnamed))
            listening.listen()
            unnamed.rename(self._path)
        except OSError:
            listening.close()
            raise
        finally:
            os.umask(before)
        return listening

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._connections):
                writer.close()
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while line := await reader.readline():
                writer.write(msgspec.json.encode(self._answer(line)) + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError) as error:
            log.debug("a control connection ended: %s", error)
        finally:
            self._connections.discard(writer)
            writer.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        about = {"app": self._runtime.app_name, "pid": os.getpid(), "host": socket.gethostname()}
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            return {**about, "error": f"a request is one JSON object a line: {error}"}
        try:
            found = self._do(str(request.get("do")), request)
        except LookupError as error:
            return {**about, "error": str(error.args[0])}
        return {**about, "draining": self._runtime.draining, "found": found}

    def _do(self, what: str, request: dict[str, Any]) -> list[dict[str, Any]]:
        runtime = self._runtime
        if what == "trace":
            return list(traces(runtime, str(request.get("id"))))
        if what not in ("handlers", "show", "pause", "resume"):
            raise LookupError(f"{what!r} is no request; there are handlers, show, pause, resume and trace")
        names = request.get("handlers") or [runner.handler.name for runner in runtime.handlers]
        runners = {runner.handler.name: runner for runner in runtime.handlers}
        unknown = [name for name in names if name not in runners]
        if unknown:
            raise LookupError(f"app {runtime.app_name!r} has no handler {unknown[0]!r}; it has {', '.join(runners)}")
        found = []
        for name in names:
            runner = runners[name]
            if what == "pause":
                self._pauses[name] = {"by": str(request.get("by", "")), "reason": str(request.get("reason", ""))}
                runner.pause(OPERATOR)
            elif what == "resume":
                self._pauses.pop(name, None)
                runner.resume(OPERATOR)
            if what in ("pause", "resume"):
                log.warning("handler %s: %sd by %s: %s", name, what, request.get("by"), request.get("reason") or "-")
            shown = handler_detail(runner) if what == "show" else handler_row(runner)
            found.append({**shown, **({"pause": self._pauses[name]} if name in self._pauses else {})})
        return found
