"""CloudEvents over HTTP: the receivers that bring events in, the server under them, the sinks that send them out.

`Receiver`, `Endpoint` and `Alertmanager` are declarations and cheap to import; uvicorn and aiohttp are loaded when a
server or a sink is opened.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from headrace.http.receiver import Receiver

if TYPE_CHECKING:
    from headrace.http.alertmanager import Alertmanager as Alertmanager
    from headrace.http.endpoint import Endpoint as Endpoint

_HOMES = {"Alertmanager": "headrace.http.alertmanager", "Endpoint": "headrace.http.endpoint"}

__all__ = ["Alertmanager", "Endpoint", "Receiver"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace.http' has no attribute {name!r}")
    return getattr(import_module(home), name)
