"""Memory given back once a list has gone by: what thousands of objects passed through is of no use to a watch at rest."""

from __future__ import annotations

import ctypes

__all__ = ["give_back"]


def give_back() -> None:
    """Have the C library return free pages to the system, where it is one that keeps them (glibc). Takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
