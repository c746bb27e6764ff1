"""promtool, from Prometheus' Debian package: checks metrics and rules as Prometheus itself would read them."""

from pathlib import Path

from tests.servers.debian import unpacked
from tests.servers.versions import PROMETHEUS


def promtool() -> Path:
    """The program.

    Raises:
        Unavailable: it cannot be had here.
    """
    return unpacked("prometheus", PROMETHEUS) / "usr/bin/promtool"
