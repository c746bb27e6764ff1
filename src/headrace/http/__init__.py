"""CloudEvents over HTTP: the receivers that bring events in, the server under them, the endpoint that sends them out.

`Receiver` and `Endpoint` are declarations and cheap to import; uvicorn and aiohttp are loaded when a server or a sink
is opened.
"""

from typing import TYPE_CHECKING

from headrace.http.receiver import Receiver

if TYPE_CHECKING:
    from headrace.http.endpoint import Endpoint as Endpoint

__all__ = ["Endpoint", "Receiver"]


def __getattr__(name: str) -> object:
    if name == "Endpoint":
        from headrace.http.endpoint import Endpoint

        return Endpoint
    raise AttributeError(f"module 'headrace.http' has no attribute {name!r}")
