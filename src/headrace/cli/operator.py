"""Who acts: the name that goes into audits and logs."""

from __future__ import annotations

import getpass
import os
import socket

__all__ = ["operator"]


def operator() -> str:
    """``HEADRACE_OPERATOR``, else the account and the machine."""
    given = os.environ.get("HEADRACE_OPERATOR")
    if given:
        return given
    try:
        account = getpass.getuser()
    except (KeyError, OSError):
        account = f"uid {os.getuid()}"  # a container may run under a number that has no name
    return f"{account}@{socket.gethostname()}"
