"""Programs of Debian packages, unpacked into the cache: nothing is installed, and no root is needed."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from tests.servers.cache import provide
from tests.servers.process import Unavailable


def unpacked(package: str, series: str, *, libraries: bool = False) -> Path:
    """The root of the unpacked package.

    Args:
        package: its name in the archive of the machine's own release.
        series: the version that is expected, for the name in the cache.
        libraries: also unpack those of its dependencies that the machine lacks.

    Raises:
        Unavailable: this is no Debian, or the archive cannot be reached.
    """

    def make(folder: Path) -> None:
        for tool in ("apt-get", "apt-cache", "dpkg-deb", "dpkg-query"):
            if shutil.which(tool) is None:
                raise Unavailable(f"{package} is taken from its Debian package: there is no {tool} on PATH")
        _refresh_lists(package)
        wanted = [package, *(_missing_dependencies(package) if libraries else [])]
        done = _run(["apt-get", "download", "-q", *wanted], folder)
        if done.returncode:
            raise Unavailable(f"apt-get could not download {' '.join(wanted)}:\n{done.stderr[-1000:]}")
        for archive in folder.glob("*.deb"):
            if _run(["dpkg-deb", "-x", str(archive), str(folder)], folder).returncode:
                raise Unavailable(f"dpkg-deb could not unpack {archive.name}")
            archive.unlink()

    return provide(f"{package}-{series}", make)


def library_path(root: Path) -> dict[str, str]:
    """The variable with which a program of ``root`` finds the libraries unpacked beside it."""
    folder = f"usr/lib/{sysconfig.get_config_var('MULTIARCH') or ''}"
    places = [str(root / folder), str(root / folder.removeprefix("usr/")), os.environ.get("LD_LIBRARY_PATH", "")]
    return {"LD_LIBRARY_PATH": ":".join(place for place in places if place)}


def _refresh_lists(package: str) -> None:
    """A fresh container has no package lists; bringing them is the one step that needs root."""
    if not _run(["apt-cache", "show", package], Path("/")).returncode:
        return
    if os.geteuid() != 0:
        raise Unavailable(f"apt knows no package {package}; run apt-get update as root")
    done = _run(["apt-get", "update", "-q"], Path("/"))
    if done.returncode:
        raise Unavailable(f"apt-get update failed:\n{done.stderr[-1000:]}")


def _missing_dependencies(package: str) -> list[str]:
    """What ``package`` needs, and what that needs, of what is not installed; of alternatives the first."""
    missing: list[str] = []
    waiting = [package]
    while waiting:
        name = waiting.pop()
        alternatives: list[str] = []
        for line in _run(["apt-cache", "depends", name], Path("/")).stdout.splitlines():
            relation, _, other = line.strip().partition(": ")
            if relation.removeprefix("|") not in ("Depends", "PreDepends") or other.startswith("<"):
                continue
            alternatives.append(other)
            if relation.startswith("|"):
                continue
            if not any(_is_installed(other) or other in missing for other in alternatives):
                missing.append(alternatives[0])
                waiting.append(alternatives[0])
            alternatives = []
    return missing


def _is_installed(package: str) -> bool:
    done = _run(["dpkg-query", "-W", "-f", "${Status}", package], Path("/"))
    return done.returncode == 0 and "install ok installed" in done.stdout


def _run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
