"""The ``headrace`` command as a user starts it: in a process and a folder of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from headrace.cli.group import invoke


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON objects of its output, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Command:
    """Runs ``headrace`` in a folder with these variables beside those of the machine."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        cache = {name: os.environ[name] for name in ("HEADRACE_SERVERS",) if name in os.environ}
        self.variables = {**inherited, **cache, "HEADRACE_OPERATOR": "ann", **variables}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start it and go on."""
        return subprocess.Popen(
            [sys.executable, "-m", "headrace", *arguments],
            cwd=self.folder,
            env=self.variables,
            text=True,
            stdin=subprocess.DEVNULL,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def __call__(self, *arguments: str, text: str = "") -> Done:
        """Run it to its end: in this process, since most of a short command's time would be its start."""
        streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
        given = io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8")
        with (
            contextlib.chdir(self.folder),
            mock.patch.dict(os.environ, self.variables, clear=True),
            mock.patch.object(sys, "stdin", given),
            contextlib.redirect_stdout(streams[0]),
            contextlib.redirect_stderr(streams[1]),
        ):
            code = invoke(arguments)
        out, err = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
        return Done(code, out, err)
