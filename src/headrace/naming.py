"""What a name of an app or a handler may be: it names consumers, groups, ledger keys and files."""

import re

from headrace.errors import ConfigurationError

__all__ = ["NAME", "check_name"]

NAME = re.compile(r"[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*")


def check_name(name: str, what: str) -> None:
    """Raises `ConfigurationError` where a name cannot name a consumer, a group or a file."""
    if not NAME.fullmatch(name) or "__" in name:
        raise ConfigurationError(
            f"{what} {name!r}: a name is letters, digits and _, in parts joined by single -, without __; "
            "give another one with name=…"
        )
