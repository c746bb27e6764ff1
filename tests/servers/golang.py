"""Programs built with Go, once a version, into the cache."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.cache import provide
from tests.servers.process import Unavailable
from tests.servers.server import tell


def built(
    name: str, version: str, command: Sequence[str], *, folder: Path | None = None, env: Mapping[str, str] | None = None
) -> Path:
    """The folder with what ``go`` built.

    Args:
        name: what it is called in messages and in the cache.
        version: of what is built.
        command: arguments of ``go``; ``{out}`` is the folder that gets the program.
        folder: where to run it, where it builds a module of ours.
        env: variables beside this process's; ``{out}`` is replaced there too.

    Raises:
        Unavailable: there is no ``go``, or it failed.
    """

    def make(out: Path) -> None:
        go = shutil.which("go")
        if go is None:
            raise Unavailable(f"{name} is built with Go 1.26 or newer: there is no go on PATH")
        tell(f"building {name} {version}")
        # Go's own variables say where its caches are; the build must not slow down the tests beside it.
        polite = ["nice"] if shutil.which("nice") else []
        done = subprocess.run(
            [*polite, go, *(part.replace("{out}", str(out)) for part in command)],
            cwd=folder or out,
            env={**os.environ, **{key: value.replace("{out}", str(out)) for key, value in (env or {}).items()}},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"go could not build {name} {version}:\n{done.stderr[-2000:]}")

    return provide(f"{name}-{version}", make)
