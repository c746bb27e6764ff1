"""Asks every process of an app that runs from this folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec

from headrace.control.server import FOLDER
from headrace.errors import ConnectionFailed

__all__ = ["ask"]

#: Seconds that a process may take to answer: its loop may be busy.
WITHIN = 10.0
_LONGEST = 64 * 1024 * 1024


async def ask(app: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The answer of each process of the app, by pid.

    A socket that nobody listens on was left by a process that was killed; it is removed.

    Raises:
        ConnectionFailed: no process of this app runs from this folder, or one does not answer.
    """
    answers = []
    for path in sorted(FOLDER.glob(f"{app}-*.sock")):
        if not path.stem.removeprefix(f"{app}-").isdigit():
            continue  # an app whose name begins with ours
        # One that ended while it was asked is asked again: by then nobody listens, and its socket is removed.
        answer = await _answer(path, request) or await _answer(path, request)
        if answer:
            answers.append(answer)
    if not answers:
        raise ConnectionFailed(
            f"no process of app {app!r} runs from this folder: there is no socket {FOLDER}/{app}-PID.sock; "
            "run this command in the folder that the app was started in"
        )
    return sorted(answers, key=lambda answer: answer["pid"])


async def _answer(path: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """One process's answer; ``None`` where it has ended."""
    try:
        async with asyncio.timeout(WITHIN):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=_LONGEST)
            try:
                writer.write(msgspec.json.encode(request) + b"\n")
                await writer.drain()
                line = await reader.readline()
            finally:
                writer.close()
    except (ConnectionRefusedError, FileNotFoundError):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return None
    except (ConnectionResetError, BrokenPipeError):
        return None
    except (OSError, TimeoutError) as error:
        raise ConnectionFailed(
            f"the process at {path} does not answer within {WITHIN:g} s: {error or 'its loop is busy'}"
        ) from error
    return msgspec.json.decode(line, type=dict[str, Any]) if line else None
