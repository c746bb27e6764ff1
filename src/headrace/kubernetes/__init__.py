"""Kubernetes: watches of resources as sources of events, and a client for handlers that act back.

`Watch` is an informer in the sense of client-go: it lists, watches, recovers from everything an API server does, and
says of every object what was added, updated and deleted, over restarts too. Names are imported when they are first
used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.kubernetes.change import Change as Change
    from headrace.kubernetes.cluster import Cluster as Cluster
    from headrace.kubernetes.guard import Budget as Budget
    from headrace.kubernetes.guard import RepairRefused as RepairRefused
    from headrace.kubernetes.lease import Lease as Lease
    from headrace.kubernetes.lease import LeaseLost as LeaseLost
    from headrace.kubernetes.status import ApiError as ApiError
    from headrace.kubernetes.watch import Watch as Watch

_HOMES = {
    "ApiError": "headrace.kubernetes.status",
    "Budget": "headrace.kubernetes.guard",
    "Change": "headrace.kubernetes.change",
    "Cluster": "headrace.kubernetes.cluster",
    "Lease": "headrace.kubernetes.lease",
    "LeaseLost": "headrace.kubernetes.lease",
    "RepairRefused": "headrace.kubernetes.guard",
    "Watch": "headrace.kubernetes.watch",
}

__all__ = ["ApiError", "Budget", "Change", "Cluster", "Lease", "LeaseLost", "RepairRefused", "Watch"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace.kubernetes' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
